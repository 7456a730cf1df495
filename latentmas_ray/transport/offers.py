"""The transports that can be measured beside one another: where each can move memory, and whether it works here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from latentmas_ray.config import TransportName
from latentmas_ray.errors import ConfigError
from latentmas_ray.transport import make_transport
from latentmas_ray.transport.available import find_available
from latentmas_ray.transport.base import Transport
from latentmas_ray.transport.traits import TRAITS


@dataclass(frozen=True)
class Offer:
    """One transport between CPUs."""

    name: TransportName
    fills_store: bool  # a segment on its way lies in Ray's object store

    @property
    def links(self) -> frozenset[str]:
        """Those on which it is measured."""
        links = TRAITS[self.name].links & {"same_process", "same_node", "cross_node"}
        # Actors beside one another are what the others are for.
        return links if self.name == "loopback" else links - {"same_process"}

    def make(self) -> Transport:
        """A new one, not opened yet."""
        return make_transport(self.name)

    def obstacle(self) -> str | None:
        """Why it does not work on this machine, in a few words, if so."""
        needs = TRAITS[self.name].needs
        return None if needs is None or needs in find_available() else f"it needs {needs}"


_NAMES: tuple[TransportName, ...] = ("loopback", "object_store", "shared_memory", "gloo", "nixl")
OFFERS: Mapping[str, Offer] = {name: Offer(name, fills_store=name == "object_store") for name in _NAMES}


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
