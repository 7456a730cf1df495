"""What of that which transports need is here, in this process."""

import importlib.util
import os
import sys

import torch
import torch.distributed


def find_available() -> frozenset[str]:
    """The names, as `Traits.needs` has them. Loads nothing and starts nothing."""
    cuda = torch.cuda.is_available()
    distributed = torch.distributed.is_available()
    found = {
        # The way to another process's memory is /proc.
        "memfd": sys.platform == "linux" and hasattr(os, "memfd_create"),
        "gloo": distributed and torch.distributed.is_gloo_available(),
        "nccl": cuda and distributed and torch.distributed.is_nccl_available(),
        "cuda": cuda,
        "nixl": importlib.util.find_spec("nixl") is not None,
    }
    return frozenset(name for name, is_here in found.items() if is_here)


def gpu_in_use() -> str:
    """Which of the machine's GPUs this process computes on; unique in a cluster."""
    return str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)
