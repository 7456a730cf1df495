"""The memory that a process uses, of one GPU's allocator or resident memory, and what its machine has left."""

import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")


def reset_peak(device: torch.device) -> None:
    """Reset the peak: of the GPU's allocator, or of this process's resident memory, where the system allows it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def used_bytes(device: torch.device, *, peak: bool) -> int:
    """Return the memory in use now, or the peak since `reset_peak`. Without /proc it is the peak in both cases."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) if peak else torch.cuda.memory_allocated(device)
    if not _STATUS.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    field = "VmHWM:" if peak else "VmRSS:"
    return next(int(line.split()[1]) for line in _STATUS.read_text().splitlines() if line.startswith(field)) * 1024


def available_bytes() -> int:
    """Return the memory that is available on this machine (Linux)."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) * 1024
