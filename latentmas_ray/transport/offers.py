"""The transports that can be measured beside one another: where each can move memory, and whether it works here."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from latentmas_ray.errors import ConfigError
from latentmas_ray.transport.base import Transport
from latentmas_ray.transport.loopback import Loopback
from latentmas_ray.transport.object_store import ObjectStore


def _no_obstacle() -> None:
    return None


@dataclass(frozen=True)
class Offer:
    """One transport. `obstacle` says in a few words why it does not work on this machine, if so."""

    make: Callable[[], Transport]
    links: frozenset[str]  # same_process, same_node, cross_node
    obstacle: Callable[[], str | None] = _no_obstacle
    fills_store: bool = False  # a segment on its way lies in Ray's object store


OFFERS: Mapping[str, Offer] = {
    "loopback": Offer(Loopback, frozenset({"same_process"})),
    "object_store": Offer(ObjectStore, frozenset({"same_node", "cross_node"}), fills_store=True),
}


def offers(names: Sequence[str] | None = None) -> dict[str, Offer]:
    """The transports of these names; all that work here if none are named.

    Raises ConfigError for an unknown name, and for a transport that was named and does not work here.
    """
    if names is None:
        return {name: offer for name, offer in OFFERS.items() if offer.obstacle() is None}
    for name in names:
        if name not in OFFERS:
            raise ConfigError("transports", name, f"the transports are {', '.join(OFFERS)}")
        if (obstacle := OFFERS[name].obstacle()) is not None:
            raise ConfigError("transports", name, f"it does not work here: {obstacle}")
    return {name: OFFERS[name] for name in names}
