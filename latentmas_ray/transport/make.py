"""The transports by name, and those that a benchmark can compare on this machine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from latentmas_ray.config import ActorLink, CodecName, TransportName
from latentmas_ray.errors import ConfigError
from latentmas_ray.transport.available import find_available
from latentmas_ray.transport.base import Transport
from latentmas_ray.transport.capabilities import NEEDED, Link
from latentmas_ray.transport.choose import DeviceLayout, choose
from latentmas_ray.transport.gpu.cuda_ipc import CudaIpc
from latentmas_ray.transport.gpu.nccl import Gloo, Nccl
from latentmas_ray.transport.gpu.nixl import Nixl
from latentmas_ray.transport.links.per_link import PerLink
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
    """Return the transport of this name (any but `auto`), not yet open."""
    return TRANSPORTS[name]()


def pick_transport(
    asked: TransportName | Mapping[ActorLink, TransportName], codec: CodecName, where: DeviceLayout
) -> tuple[Transport, str]:
    """Return the transport that `choose` picks, not yet open, and the reason for the choice. Raises ConfigError."""
    choice = choose(asked, where, codec)
    made = {name: make_transport(name).with_codec(codec) for name in choice.names.values()}
    if where.nodes == "one":
        made = {name: transport.within_one_node() for name, transport in made.items()}
    if choice.name is not None:
        return made[choice.name], choice.why
    by_link = {link: made[name] for link, name in choice.names.items() if link != "same_process"}
    return PerLink(by_link), choice.why


def missing_needs() -> dict[TransportName, str]:
    """Return what transports between actors lack on this machine, in words for a user; not those that lack nothing."""
    found = find_available()
    needed = {name: transport.capabilities.needs for name, transport in TRANSPORTS.items() if name != "loopback"}
    return {name: NEEDED[needs] for name, needs in needed.items() if needs is not None and needs not in found}


@dataclass(frozen=True)
class Candidate:
    """A transport that can be measured here."""

    name: TransportName

    @property
    def links(self) -> frozenset[Link]:
        """The links over which it is measured; within a process only the loopback is."""
        links = TRANSPORTS[self.name].capabilities.links - {"same_gpu"}
        return links if self.name == "loopback" else links - {"same_process"}

    @property
    def fills_store(self) -> bool:
        """Whether segments in transit take memory of Ray's object store."""
        return self.name == "object_store"

    def obstacle(self) -> str | None:
        """The reason why it does not work here, in a few words; None if it does."""
        needed = TRANSPORTS[self.name].capabilities
        if "cpu" not in needed.devices:
            return "it moves memory of GPUs only, and the benchmark's memory is on the CPU"
        if needed.needs is not None and needed.needs not in find_available():
            return f"it needs: {NEEDED[needed.needs]}"
        return None

    def make(self, *, within_one_node: bool) -> Transport:
        """Return the transport, not yet open."""
        transport = make_transport(self.name)
        return transport.within_one_node() if within_one_node else transport


def find_candidates(names: Sequence[str] | None = None) -> dict[str, Candidate]:
    """The named transports; by default all that work here. Raises ConfigError for an unknown name, and for a named
    transport that does not work here.
    """
    known: dict[str, Candidate] = {name: Candidate(name) for name in TRANSPORTS}
    if names is None:
        return {name: offer for name, offer in known.items() if offer.obstacle() is None}
    for name in names:
        if name not in known:
            raise ConfigError("transports", name, f"the transports are {', '.join(known)}")
        if (obstacle := known[name].obstacle()) is not None:
            raise ConfigError("transports", name, f"it does not work here: {obstacle}")
    return {name: known[name] for name in names}
