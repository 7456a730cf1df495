"""What moves segments between actors: one file per transport, and the choice between them."""

from collections.abc import Callable, Mapping

from latentmas_ray.config import CodecName, TransportName
from latentmas_ray.errors import ConfigError
from latentmas_ray.transport.available import find_available, gpu_in_use
from latentmas_ray.transport.base import Transport
from latentmas_ray.transport.choose import Choice, Situation, choose
from latentmas_ray.transport.cuda_ipc import CudaIpc
from latentmas_ray.transport.direct import Gloo, Nccl
from latentmas_ray.transport.loopback import Loopback
from latentmas_ray.transport.nixl import Nixl
from latentmas_ray.transport.object_store import ObjectStore
from latentmas_ray.transport.shared_memory import SharedMemory
from latentmas_ray.transport.tcp import Tcp

__all__ = [
    "Choice",
    "CudaIpc",
    "Gloo",
    "Loopback",
    "Nccl",
    "Nixl",
    "ObjectStore",
    "SharedMemory",
    "Situation",
    "Tcp",
    "Transport",
    "choose",
    "find_available",
    "gpu_in_use",
    "make_transport",
    "pick_transport",
]

_MAKERS: Mapping[TransportName, Callable[[], Transport]] = {
    "loopback": Loopback,
    "object_store": ObjectStore,
    "shared_memory": SharedMemory,
    "tcp": Tcp,
    "gloo": Gloo,
    "nccl": Nccl,
    "cuda_ipc": CudaIpc,
    "nixl": Nixl,
}


def make_transport(name: TransportName) -> Transport:
    """The transport of this name (any but `auto`), not opened yet."""
    return _MAKERS[name]()


def pick_transport(name: TransportName, codec: CodecName, where: Situation) -> tuple[Transport, str]:
    """The transport that a run asked for, or the best one, in this situation, not opened yet; and why it is this one.

    Raises ConfigError for one that cannot be used here, or that sends nothing which a codec could make smaller.
    """
    if codec != "none" and where.same_process:
        if name == "loopback":
            raise ConfigError("codec", codec, "loopback sends nothing; use transport auto or object_store")
        name = "object_store" if name == "auto" else name
    choice = choose(name, where)
    transport = make_transport(choice.name).with_codec(codec)
    return (transport.within_one_node() if where.nodes == "one" else transport), choice.why
