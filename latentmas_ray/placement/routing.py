"""Chooses the replica that executes a turn. Pure functions."""

from collections.abc import Hashable, Sequence
from typing import Protocol


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


def _num_remote(replica: PlacedReplica, read_nodes: Sequence[Hashable]) -> int:
    return sum(node not in replica.nodes for node in read_nodes)
