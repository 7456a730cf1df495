"""The choice of a run's transports, one for each link: a pure function of its configuration and of where its actors
are. No torch. It measures nothing itself: between nodes it asks `DeviceLayout.measure`, if there is one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from latentmas_ray.config import ActorLink, CodecName, TransportName, format_transport
from latentmas_ray.errors import ConfigError
from latentmas_ray.transport.capabilities import NEEDED, Device, Link
from latentmas_ray.units import format_bytes, format_fine_seconds

# Best first; the object store, last, reaches every reader. The order for CPUs is measured:
# benchmarks/results/transports.md.
_PREFERRED: dict[Device, dict[ActorLink, tuple[TransportName, ...]]] = {
    "cpu": {"same_node": ("shared_memory", "object_store"), "cross_node": ("tcp", "object_store")},
    "cuda": {
        "same_gpu": ("cuda_ipc", "nixl", "object_store"),
        "same_node": ("nccl", "nixl", "object_store"),
        # One-sided reads, because a group of NCCL is lost with any of its nodes.
        "cross_node": ("nixl", "nccl", "tcp", "object_store"),
    },
}
# The transports with link `same_process`, best first; listed here because this choice is made before torch is imported.
IN_ONE_PROCESS: tuple[TransportName, ...] = ("loopback", "object_store")
_LINK_NAMES: dict[Link, str] = {
    "same_process": "within one process",
    "same_gpu": "between actors on one GPU",
    "same_node": "between actors on one node",
    "cross_node": "between nodes",
}


# Another transport than the preferred one is taken if it needs at most this share of its time: what is nearly as fast
# would be the faster one in one run and not in the next.
MARGIN = 0.75


@dataclass(frozen=True, kw_only=True)
class LinkTimes:
    """The measured seconds of a hand-over of `num_bytes` between two nodes by each transport, or why there are none."""

    num_bytes: int = 0
    seconds: Mapping[TransportName, float] = field(default_factory=dict)
    failed: str = ""


@dataclass(frozen=True, kw_only=True)
class DeviceLayout:
    """The devices and nodes of a run's actors."""

    same_process: bool = False
    device: Device = "cpu"
    nodes: Literal["one", "several"] = "one"
    gpus: Literal["own", "one", "shared"] = "own"  # one per actor; one for all; several, shared by actors
    available: frozenset[str] = frozenset()  # values of `Capabilities.needs` that every actor has
    # Measures the transports of CPUs between two of the actors' nodes; called only where that decides.
    measure: Callable[[], LinkTimes] | None = field(default=None, compare=False)

    @property
    def actor_links(self) -> tuple[ActorLink, ...]:
        """The links between actors over which memory may have to move, nearest first."""
        links: list[ActorLink] = []
        if self.device == "cuda" and self.gpus != "own":
            links.append("same_gpu")
        if self.device == "cpu" or self.gpus != "one":
            links.append("same_node")
        if self.nodes == "several":
            links.append("cross_node")
        return tuple(links)


@dataclass(frozen=True)
class Choice:
    """A transport for each link, nearest first, and in one line the reason for the choice."""

    names: Mapping[Link, TransportName]
    why: str

    @property
    def name(self) -> TransportName | None:
        """The transport, if it is the same for all links."""
        distinct = set(self.names.values())
        return distinct.pop() if len(distinct) == 1 else None


def choose(
    asked: TransportName | Mapping[ActorLink, TransportName], where: DeviceLayout, codec: CodecName = "none"
) -> Choice:
    """Choose the transports that are asked for, or for `auto` (and for links that `asked` does not name) the best.

    Raises ConfigError for a transport that cannot be used here, and for a codec with one that sends no bytes.
    """
    if where.same_process:
        if not isinstance(asked, str):
            raise ConfigError("transport", format_transport(asked), "within one process there are no links; use auto")
        return _choose_in_one_process(asked, codec)
    links = where.actor_links
    if isinstance(asked, str) and asked != "auto":
        _check(asked, asked, links, where)
        return Choice(dict.fromkeys(links, asked), "asked for")
    by_hand = {} if isinstance(asked, str) else dict(asked)
    for link, name in by_hand.items():
        if name != "auto" and link in links:
            _check(format_transport(by_hand), name, [link], where)
    chosen = {link: _best(link, by_hand.get(link, "auto"), where) for link in links}
    names = {link: name for link, (name, _) in chosen.items()}
    is_free = by_hand.get("same_node", "auto") == "auto"
    if is_free and (names.get("same_node"), names.get("cross_node")) == ("shared_memory", "tcp"):
        # TCP shares memory within a node, too; a second transport would copy every segment once more.
        chosen["same_node"] = ("tcp", "which shares memory there")
    return Choice({link: name for link, (name, _) in chosen.items()}, _reasons(chosen))


def _reasons(chosen: Mapping[ActorLink, tuple[TransportName, str]]) -> str:
    """Return one line with the reason for each link, once for links with the same transport and reason."""
    links: dict[tuple[str, str], list[str]] = {}
    for link, (name, why) in chosen.items():
        links.setdefault((name, why), []).append(_LINK_NAMES[link])
    if len(links) == 1:
        ((_, why),) = links
        return why.replace("the best", f"the best {' and '.join(*links.values())}", 1)
    return "; ".join(f"{' and '.join(places)} {name}, {why}" for (name, why), places in links.items())


def _best(link: ActorLink, asked: TransportName, where: DeviceLayout) -> tuple[TransportName, str]:
    """Return the transport for one link and why."""
    if asked != "auto":
        return asked, "asked for"
    missed: list[str] = []
    for candidate in _PREFERRED[where.device][link]:
        if (obstacle := _obstacle(candidate, [link], where)) is None:
            if (link, where.device, candidate) == ("cross_node", "cpu", "tcp") and where.measure is not None:
                return _faster(where.measure())
            return candidate, "; ".join(["the best", *missed])
        missed.append(obstacle)
    raise AssertionError("the object store reaches every reader")


def _faster(times: LinkTimes) -> tuple[TransportName, str]:
    """Return tcp, or the object store if that is faster by the margin, and the figures."""
    tcp, store = times.seconds.get("tcp"), times.seconds.get("object_store")
    if tcp is None or store is None:
        return "tcp", f"the best; it was not measured here: {times.failed}"
    size, by_tcp, by_store = format_bytes(times.num_bytes), format_fine_seconds(tcp), format_fine_seconds(store)
    if store <= MARGIN * tcp:
        return "object_store", f"the best measured here: {size} in {by_store}, by tcp in {by_tcp}"
    return "tcp", f"the best: {size} in {by_tcp}, by object_store in {by_store}"


def _check(value: str, name: TransportName, links: Sequence[ActorLink], where: DeviceLayout) -> None:
    """Raise ConfigError for the `value` of the field if a transport in it cannot be used on these links."""
    if (obstacle := _obstacle(name, links, where)) is not None:
        usable = [other for other in get_args(TransportName) if other != "auto" and not _obstacle(other, links, where)]
        raise ConfigError("transport", value, f"{obstacle}; use auto or {' or '.join(usable)}")


def _choose_in_one_process(name: TransportName, codec: CodecName) -> Choice:
    if codec != "none" and name == "loopback":
        raise ConfigError("codec", codec, "loopback sends nothing; use transport auto or object_store")
    if name == "auto":
        best: TransportName = "loopback" if codec == "none" else "object_store"
        why = f"the best {_LINK_NAMES['same_process']}" if codec == "none" else "asked for"
        return Choice({"same_process": best}, why)
    if name not in IN_ONE_PROCESS:
        place = _LINK_NAMES["same_process"]
        raise ConfigError("transport", name, f"{name} does not work {place}; use auto or {' or '.join(IN_ONE_PROCESS)}")
    return Choice({"same_process": name}, "asked for")


def _obstacle(name: TransportName, links: Sequence[ActorLink], where: DeviceLayout) -> str | None:
    """The reason why a transport cannot be used on these links; None if it can."""
    from latentmas_ray.transport.make import TRANSPORTS  # needs torch

    able = TRANSPORTS[name].capabilities
    if where.device not in able.devices:
        return f"{name} moves memory of {' and '.join(sorted(able.devices))} only, and the agents are on {where.device}"
    for link in links:
        if link not in able.links:
            return f"{name} does not work {_LINK_NAMES[link]}"
    if able.needs is not None and able.needs not in where.available:
        return f"{name} cannot be used here ({NEEDED[able.needs]})"
    return None
