"""The links from a replica to those that may read its segments."""

from collections.abc import Iterable

from latentmas_ray.actors.replicas.replica import Replica
from latentmas_ray.config import ActorLink


def links_to(producer: Replica, readers: Iterable[Replica]) -> frozenset[ActorLink] | None:
    """Return the links from the actors of `producer` to those of `readers`; None while the GPU of one is unknown."""
    everyone = [producer, *readers]
    if not all(replica.knows_places for replica in everyone):
        return None
    return frozenset(
        reader.link_to(own) for replica in everyone[1:] for reader in replica.places for own in producer.places
    )
