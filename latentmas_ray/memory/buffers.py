"""Large buffers whose first use is fast, and copies of many small parts."""

import contextlib
import mmap

import numpy as np
import torch
from torch import Tensor

_LARGE_BYTES = 4 * 2**20


def empty_bytes(num_bytes: int, device: torch.device) -> Tensor:
    """A flat uint8 tensor of any content.

    On a CPU a large one lies on huge pages where the system offers them: the first write to a page of the usual size
    costs several times as much as the bytes that are written.
    """
    if device.type != "cpu" or num_bytes < _LARGE_BYTES or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(num_bytes, dtype=torch.uint8, device=device)
    pages = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without them
        pages.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(pages, dtype=torch.uint8)


def copy_into(target: Tensor, source: Tensor) -> None:
    """`target.copy_(source)` for tensors of one dtype.

    torch splits a copy over its threads and waits for the last of them; for the part of a cache that one layer is, that
    wait costs more than the copy, and many times more where other work has a core. numpy's copy never splits.
    """
    if target.device.type == source.device.type == "cpu" and target.dtype == source.dtype:
        same_size = {2: torch.int16, 4: torch.int32}.get(target.itemsize, target.dtype)
        np.copyto(target.view(same_size).numpy(), source.view(same_size).numpy())
    else:
        target.copy_(source)
