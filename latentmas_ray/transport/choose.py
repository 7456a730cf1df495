"""The choice of a run's transport: a pure function of its configuration and of where its actors are. No torch."""

from dataclasses import dataclass
from typing import Literal, get_args

from latentmas_ray.config import CodecName, TransportName
from latentmas_ray.errors import ConfigError
from latentmas_ray.transport.capabilities import Device, Link

# Best first; the object store, last, reaches every reader. The order for CPUs is measured:
# benchmarks/results/transports.md.
_PREFERRED: dict[Device, tuple[TransportName, ...]] = {
    "cpu": ("shared_memory", "object_store"),
    "cuda": ("cuda_ipc", "nccl", "nixl", "object_store"),
}
# One-sided reads between nodes, because a group of NCCL is lost with any of its nodes.
_PREFERRED_ACROSS: dict[Device, tuple[TransportName, ...]] = {
    "cpu": ("tcp", "object_store"),
    "cuda": ("nixl", "nccl", "tcp", "object_store"),
}
# The transports with link `same_process`, best first; listed here because this choice is made before torch is imported.
IN_ONE_PROCESS: tuple[TransportName, ...] = ("loopback", "object_store")
_LINK_NAMES: dict[Link, str] = {
    "same_process": "within one process",
    "same_gpu": "between actors on one GPU",
    "same_node": "between actors on one node",
    "cross_node": "between nodes",
}


@dataclass(frozen=True, kw_only=True)
class DeviceLayout:
    """The devices and nodes of a run's actors."""

    same_process: bool = False
    device: Device = "cpu"
    nodes: Literal["one", "several"] = "one"
    gpus: Literal["own", "one", "shared"] = "own"  # one per actor; one for all; several, shared by actors
    available: frozenset[str] = frozenset()  # values of `Capabilities.needs` that every actor has

    @property
    def links(self) -> tuple[Link, ...]:
        """The links over which memory may have to move, nearest first."""
        if self.same_process:
            return ("same_process",)
        links: list[Link] = []
        if self.device == "cuda" and self.gpus != "own":
            links.append("same_gpu")
        if self.device == "cpu" or self.gpus != "one":
            links.append("same_node")
        if self.nodes == "several":
            links.append("cross_node")
        return tuple(links)


@dataclass(frozen=True)
class Choice:
    """A transport and, in one line, the reason for the choice."""

    name: TransportName
    why: str


def choose(name: TransportName, where: DeviceLayout, codec: CodecName = "none") -> Choice:
    """Choose the named transport, or for `auto` the best one that reaches every reader.

    Raises ConfigError for a transport that cannot be used here, and for a codec with one that sends no bytes.
    """
    if where.same_process:
        return _choose_in_one_process(name, codec)
    if name != "auto":
        if (obstacle := _obstacle(name, where)) is not None:
            usable = [other for other in get_args(TransportName) if other != "auto" and not _obstacle(other, where)]
            raise ConfigError("transport", name, f"{obstacle}; use auto or {' or '.join(usable)}")
        return Choice(name, "asked for")
    preferred = _PREFERRED if where.nodes == "one" else _PREFERRED_ACROSS
    missed: list[str] = []
    for candidate in preferred[where.device]:
        if (obstacle := _obstacle(candidate, where)) is None:
            place = " and ".join(_LINK_NAMES[link] for link in where.links)
            return Choice(candidate, "; ".join([f"the best {place}", *missed]))
        missed.append(obstacle)
    raise AssertionError("the object store reaches every reader")


def _choose_in_one_process(name: TransportName, codec: CodecName) -> Choice:
    if codec != "none" and name == "loopback":
        raise ConfigError("codec", codec, "loopback sends nothing; use transport auto or object_store")
    if name == "auto":
        best: TransportName = "loopback" if codec == "none" else "object_store"
        return Choice(best, f"the best {_LINK_NAMES['same_process']}" if codec == "none" else "asked for")
    if name not in IN_ONE_PROCESS:
        place = _LINK_NAMES["same_process"]
        raise ConfigError("transport", name, f"{name} does not work {place}; use auto or {' or '.join(IN_ONE_PROCESS)}")
    return Choice(name, "asked for")


def _obstacle(name: TransportName, where: DeviceLayout) -> str | None:
    """The reason why a transport cannot be used here; None if it can."""
    from latentmas_ray.transport.make import TRANSPORTS  # needs torch

    able = TRANSPORTS[name].capabilities
    if where.device not in able.devices:
        return f"{name} moves memory of {' and '.join(sorted(able.devices))} only, and the agents are on {where.device}"
    for link in where.links:
        if link not in able.links:
            return f"{name} does not work {_LINK_NAMES[link]}"
    if able.needs is not None and able.needs not in where.available:
        return f"{name} needs {able.needs}, which is not available here"
    return None
