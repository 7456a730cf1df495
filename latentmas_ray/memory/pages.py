"""Large buffers whose first use is fast."""

import mmap

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
    pages.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(pages, dtype=torch.uint8)
