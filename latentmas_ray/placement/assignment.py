"""Assigns a node and a GPU to each rank of each replica. Pure functions."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from latentmas_ray.placement.resources import ActorResources, NodeResources


@dataclass(frozen=True)
class Slot:
    """The place of one rank: the index of a node and of a GPU there (None: it computes on the CPU)."""

    node: int
    gpu: int | None


@dataclass(frozen=True)
class ReplicaId:
    """Identifies one replica of an agent, or of several agents that share an actor."""

    agents: tuple[str, ...]
    replica: int

    def __str__(self) -> str:
        return f"{'+'.join(self.agents)} {self.replica}"


Pipeline = tuple[ReplicaId, ...]  # replicas of different agents that hand over to one another
Slots = dict[ReplicaId, tuple[Slot, ...]]  # one slot per tp rank


def assign_packed(
    pipelines: Sequence[Pipeline], nodes: Sequence[NodeResources], share: ActorResources, tp: int
) -> Slots | None:
    """Put each pipeline on the first node where all of it fits. Return None if one fits nowhere.

    Where agents have different numbers of replicas, some pipelines are longer: they take turns with the others, so that
    not a few nodes have all replicas of an agent, whose memory would then leave through the ports of these nodes. If
    they do not fit so, the longest are placed first.
    """
    for ordered in (_in_turn(pipelines), sorted(pipelines, key=len, reverse=True)):
        if (slots := _assign_to_first(ordered, nodes, share, tp)) is not None:
            return slots
    return None


def _in_turn(pipelines: Sequence[Pipeline]) -> list[Pipeline]:
    """Return the pipelines such that those of each length are evenly spread over the list, the longest first."""
    totals = Counter(map(len, pipelines))
    seen: Counter[int] = Counter()
    order: list[tuple[float, int, Pipeline]] = []
    for pipeline in pipelines:
        length = len(pipeline)
        order.append((seen[length] / totals[length], -length, pipeline))
        seen[length] += 1
    return [pipeline for _, _, pipeline in sorted(order, key=lambda item: item[:2])]


def _assign_to_first(
    pipelines: Sequence[Pipeline], nodes: Sequence[NodeResources], share: ActorResources, tp: int
) -> Slots | None:
    free = _free_slots(nodes, share)
    slots: Slots = {}
    for pipeline in pipelines:
        node = next((node for node in free if node.replicas_that_fit(tp, len(pipeline)) == len(pipeline)), None)
        if node is None:
            return None
        slots.update({replica_id: node.reserve(tp) for replica_id in pipeline})
    return slots


def assign_spread(
    pipelines: Sequence[Pipeline], nodes: Sequence[NodeResources], share: ActorResources, tp: int
) -> Slots | None:
    """Spread the replicas of each pipeline over all nodes, in order; with fewer nodes than replicas, neighbours share
    a node.

    A replica for a full node goes to the next one. Return None if a replica fits nowhere.
    """
    free = [node for node in _free_slots(nodes, share) if node.replicas_that_fit(tp, 1)]
    slots: Slots = {}
    first = 0
    for pipeline in pipelines:
        for index, replica_id in enumerate(pipeline):
            wanted = first + (index if len(pipeline) <= len(free) else index * len(free) // len(pipeline))
            order = (free[(wanted + step) % len(free)] for step in range(len(free)))
            node = next((node for node in order if node.replicas_that_fit(tp, 1)), None)
            if node is None:
                return None
            slots[replica_id] = node.reserve(tp)
        first += len(pipeline) if len(pipeline) < len(free) else 0
    return slots


class _FreeSlots:
    """The free slots of one node: per GPU, or on its cores (None: unlimited)."""

    def __init__(self, number: int, node: NodeResources, share: ActorResources) -> None:
        self.number = number
        self.on_gpus = [share.actors_per_gpu] * node.whole_gpus
        self.on_cores = 0 if share.num_gpus else share.places_on(node)
        self.has_gpus = bool(share.num_gpus)

    def replicas_that_fit(self, tp: int, wanted: int) -> int:
        """Return how many of `wanted` replicas of `tp` ranks fit; the ranks of one use different GPUs."""
        if not self.has_gpus:
            return wanted if self.on_cores is None else min(wanted, self.on_cores // tp)
        free = list(self.on_gpus)
        for count in range(wanted):
            if _choose(free, tp) is None:
                return count
        return wanted

    def reserve(self, tp: int) -> tuple[Slot, ...]:
        """Reserve the slots of one replica, which must fit."""
        if not self.has_gpus:
            self.on_cores = None if self.on_cores is None else self.on_cores - tp
            return (Slot(self.number, None),) * tp
        chosen = _choose(self.on_gpus, tp)
        assert chosen is not None, "the caller checks replicas_that_fit"
        return tuple(Slot(self.number, gpu) for gpu in chosen)


def _free_slots(nodes: Sequence[NodeResources], share: ActorResources) -> list[_FreeSlots]:
    return [_FreeSlots(number, node, share) for number, node in enumerate(nodes)]


def _choose(free: list[int], tp: int) -> list[int] | None:
    """Reserve a slot on each of `tp` GPUs, the fullest first, as Ray allocates fractions. Return None, and reserve
    nothing, if there are too few."""
    usable = sorted((gpu for gpu, places in enumerate(free) if places), key=lambda gpu: (free[gpu], gpu))[:tp]
    if len(usable) < tp:
        return None
    for gpu in usable:
        free[gpu] -= 1
    return sorted(usable)
