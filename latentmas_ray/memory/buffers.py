"""Large buffers whose first write is fast, and fast copies of many small tensors."""

import contextlib
import mmap

import numpy as np
import torch
from torch import Tensor

_LARGE_BYTES = 4 * 2**20


def empty_bytes(num_bytes: int, device: torch.device) -> Tensor:
    """Return an uninitialised flat uint8 tensor.

    On a CPU a large one uses huge pages where the system offers them: the first write to a page of the usual size costs
    several times as much as writing the bytes.
    """
    if device.type != "cpu" or num_bytes < _LARGE_BYTES or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(num_bytes, dtype=torch.uint8, device=device)
    pages = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # the kernel has no huge pages
        pages.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(pages, dtype=torch.uint8)


def copy_into(target: Tensor, source: Tensor) -> None:
    """`target.copy_(source)` for tensors of one dtype.

    torch splits a copy over its threads and waits for the last of them. For one layer of a cache that wait costs more
    than the copy, and many times more if another process uses a core. numpy does not split a copy.
    """
    if target.device.type == source.device.type == "cpu" and target.dtype == source.dtype:
        same_size = {2: torch.int16, 4: torch.int32}.get(target.itemsize, target.dtype)
        np.copyto(target.view(same_size).numpy(), source.view(same_size).numpy())
    else:
        target.copy_(source)
