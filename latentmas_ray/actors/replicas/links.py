"""The links from a replica to those that may read its segments."""

from collections.abc import Iterable, Mapping, Sequence

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


class LinksByAgents:
    """The links from replicas to those of other agents. Every turn asks, and there may be a thousand readers: found
    once, as long as the replicas are the same."""

    def __init__(self) -> None:
        self._replicas: Mapping[str, Sequence[Replica]] = {}
        self._found: dict[tuple[Replica, Sequence[str]], frozenset[ActorLink]] = {}

    def links_to(
        self, producer: Replica, agents: tuple[str, ...], replicas: Mapping[str, Sequence[Replica]]
    ) -> frozenset[ActorLink] | None:
        """Return `links_to` the replicas of `agents`. `replicas` has those of all agents; it is never changed, but
        another object once one of them is another."""
        if replicas is not self._replicas:
            self._replicas, self._found = replicas, {}
        if (found := self._found.get((producer, agents))) is not None:
            return found
        links = links_to(producer, {reader for agent in agents for reader in replicas[agent]})
        if links is not None:
            self._found[producer, agents] = links
        return links
