"""Transports by name."""

from collections.abc import Mapping

from latentmas_ray.config import CodecName, TransportName
from latentmas_ray.transport.base import Transport
from latentmas_ray.transport.choose import DeviceLayout, choose
from latentmas_ray.transport.gpu.cuda_ipc import CudaIpc
from latentmas_ray.transport.gpu.nccl import Gloo, Nccl
from latentmas_ray.transport.gpu.nixl import Nixl
from latentmas_ray.transport.loopback import Loopback
from latentmas_ray.transport.object_store import ObjectStore
from latentmas_ray.transport.shared_memory.transport import SharedMemory
from latentmas_ray.transport.tcp.transport import Tcp

TRANSPORTS: Mapping[TransportName, type[Transport]] = {
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
    return TRANSPORTS[name]()


def pick_transport(name: TransportName, codec: CodecName, where: DeviceLayout) -> tuple[Transport, str]:
    """The transport that a run asked for, or the best one, in this situation, not opened yet; and why it is this one.

    Raises ConfigError for one that cannot be used here, or that sends nothing which a codec could make smaller.
    """
    choice = choose(name, where, codec)
    transport = make_transport(choice.name).with_codec(codec)
    return (transport.within_one_node() if where.nodes == "one" else transport), choice.why
