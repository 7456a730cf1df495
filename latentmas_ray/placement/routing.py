"""Chooses the replica that executes a turn. Pure functions."""

from collections.abc import Hashable, Sequence
from typing import Protocol, TypeVar

T = TypeVar("T")


class PlacedReplica(Protocol):
    """A replica whose ranks are on these nodes."""

    @property
    def nodes(self) -> Sequence[Hashable]: ...


def least_loaded(
    replicas: Sequence[PlacedReplica], loads: Sequence[int], read_nodes: Sequence[Hashable], first: int
) -> int:
    """Return the index of the replica with the smallest load; among equals, the one with most of the segments that the
    turn reads on its node; then the next one from index `first`, round robin.

    `loads` has one number for each replica, `read_nodes` the node of each segment. Every turn asks, so that no
    replica is looked at closely unless it has the smallest load and some segment on its node.
    """
    least, start = min(loads), first % len(loads)
    nodes = set(read_nodes)
    near = [
        index
        for index, load in enumerate(loads)
        if nodes and load == least and not nodes.isdisjoint(replicas[index].nodes)
    ]
    if near:
        return min(near, key=lambda index: (_num_remote(replicas[index], read_nodes), (index - start) % len(loads)))
    try:
        return loads.index(least, start)
    except ValueError:
        return loads.index(least)


def of_batch(replicas: Sequence[T], writers: Sequence[T], batch: int) -> T:
    """Return the replica of a turn whose agents share an actor, so that memory stays there: the one that wrote what the
    turn reads; for the first turn of a batch, the next one by the number of the batch, round robin."""
    return writers[0] if writers else replicas[batch % len(replicas)]


def _num_remote(replica: PlacedReplica, read_nodes: Sequence[Hashable]) -> int:
    return sum(node not in replica.nodes for node in read_nodes)
