"""The ends of a cluster's links, and which pairs of them are measured. Pure functions: no Ray, no torch."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

from latentmas_ray.bench.matrix.settings import Pairs


@dataclass(frozen=True)
class EndPlace:
    """Where one end is: the number of its node, and of its GPU there, or of its process on a node without GPUs."""

    node: int
    slot: int = 0
    has_gpu: bool = False


def find_ends(num_gpus: Sequence[int], pairs: Pairs) -> list[EndPlace]:
    """Return the ends for nodes with so many GPUs: one per GPU; on a node without GPUs two processes.

    With pairs `nodes` the first of each node.
    """
    ends = []
    for node, count in enumerate(num_gpus):
        slots = 1 if pairs == "nodes" else count or 2
        ends += [EndPlace(node, slot, has_gpu=count > 0) for slot in range(slots)]
    return ends


def find_pairs(ends: Sequence[EndPlace]) -> list[tuple[EndPlace, EndPlace]]:
    """Return the pairs (sender, reader): within a node all GPUs in both directions, or one pair of processes; between
    two nodes the GPUs of the same number, which share a rail where a network has several, or one pair of processes."""
    return [pair for pair in permutations(ends, 2) if _is_measured(*pair)]


def _is_measured(sender: EndPlace, reader: EndPlace) -> bool:
    if sender.node == reader.node:
        return sender.has_gpu or sender.slot < reader.slot
    return sender.slot == reader.slot and (sender.slot == 0 or (sender.has_gpu and reader.has_gpu))


def on_one_kind(ends: Sequence[EndPlace]) -> list[EndPlace]:
    """Return the ends on GPUs, or all where none is on a GPU. Memory on GPUs and on cores has no transport in common
    that shows what either link can do, and a run has no agents on nodes without GPUs while others have some."""
    on_gpus = [end for end in ends if end.has_gpu]
    return on_gpus or list(ends)


def first_ends(ends: Sequence[EndPlace]) -> list[EndPlace]:
    """Return the first end of each node."""
    return [end for end in ends if end.slot == 0]


def incast_senders(ends: Sequence[EndPlace], reader: EndPlace, concurrent: int) -> tuple[EndPlace, ...]:
    """Return who sends to `reader` at the same time: the `concurrent` ends that follow it in a ring, or all others."""
    position = ends.index(reader)
    return (*ends[position + 1 :], *ends[:position])[:concurrent]


def name_ends(ends: Sequence[EndPlace], hosts: Sequence[str], node_ids: Sequence[str]) -> Mapping[EndPlace, str]:
    """Return a name for each end: the address of its node, with the node's id where several have one address, and its
    GPU or process where its node has several ends."""
    times = Counter(hosts)
    of_node = Counter(end.node for end in ends)
    names = {}
    for end in ends:
        host = hosts[end.node]
        name = host if times[host] == 1 else f"{host}/{node_ids[end.node][:6]}"
        if of_node[end.node] > 1:
            name += f" gpu {end.slot}" if end.has_gpu else f" #{end.slot + 1}"
        names[end] = name
    return names
