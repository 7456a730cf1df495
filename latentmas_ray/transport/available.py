"""Which packages and hardware that transports need are available in this process."""

import importlib.util
import os
import sys
from functools import cache

import torch
import torch.distributed

from latentmas_ray.errors import TransferError
from latentmas_ray.transport.shared_memory.memfd import BufferPool, map_body


def find_available() -> frozenset[str]:
    """The available values of `Capabilities.needs`. Starts nothing."""
    cuda = torch.cuda.is_available()
    distributed = torch.distributed.is_available()
    found = {
        "memfd": sys.platform == "linux" and hasattr(os, "memfd_create") and _can_share_memory(),
        "gloo": distributed and torch.distributed.is_gloo_available(),
        "nccl": cuda and distributed and torch.distributed.is_nccl_available(),
        "cuda": cuda,
        "nixl": importlib.util.find_spec("nixl") is not None,
    }
    return frozenset(name for name, is_here in found.items() if is_here)


@cache
def _can_share_memory() -> bool:
    """Whether shared buffers work, tried once: they need Linux 5.1 or later, and /proc."""
    try:
        pool = BufferPool(0)
        address = pool.write(torch.ones(1, dtype=torch.uint8))
        return bool(map_body(address)[0] == 1)
    except TransferError:
        return False


def gpu_in_use() -> str:
    """The UUID of the GPU that this process uses; unique in a cluster."""
    return str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)
