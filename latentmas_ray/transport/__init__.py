"""Transports move segments between actors: one module per transport, and the choice between them.

`choose` needs no torch; the other names import it when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from latentmas_ray.transport.capabilities import Place
from latentmas_ray.transport.choose import Choice, DeviceLayout, choose

if TYPE_CHECKING:
    from latentmas_ray.transport.available import find_available, gpu_in_use
    from latentmas_ray.transport.base import Transport
    from latentmas_ray.transport.gpu.cuda_ipc import CudaIpc
    from latentmas_ray.transport.gpu.nccl import Gloo, Nccl
    from latentmas_ray.transport.gpu.nixl import Nixl
    from latentmas_ray.transport.links.per_link import PerLink
    from latentmas_ray.transport.loopback import Loopback
    from latentmas_ray.transport.make import make_transport, pick_transport
    from latentmas_ray.transport.object_store import ObjectStore
    from latentmas_ray.transport.shared_memory.transport import SharedMemory
    from latentmas_ray.transport.tcp.transport import Tcp

_MODULES = {
    "CudaIpc": "gpu.cuda_ipc",
    "Gloo": "gpu.nccl",
    "Loopback": "loopback",
    "Nccl": "gpu.nccl",
    "Nixl": "gpu.nixl",
    "ObjectStore": "object_store",
    "PerLink": "links.per_link",
    "SharedMemory": "shared_memory.transport",
    "Tcp": "tcp.transport",
    "Transport": "base",
    "find_available": "available",
    "gpu_in_use": "available",
    "make_transport": "make",
    "pick_transport": "make",
}

__all__ = [
    "Choice",
    "CudaIpc",
    "DeviceLayout",
    "Gloo",
    "Loopback",
    "Nccl",
    "Nixl",
    "ObjectStore",
    "PerLink",
    "Place",
    "SharedMemory",
    "Tcp",
    "Transport",
    "choose",
    "find_available",
    "gpu_in_use",
    "make_transport",
    "pick_transport",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
