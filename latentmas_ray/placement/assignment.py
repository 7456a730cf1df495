"""Assigns a node and a GPU to each rank of each replica. Pure functions."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
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

    Each pipeline begins where its agents have the fewest replicas so far: an agent does not lose all of them with one
    node. A replica for a full node goes to the next one. Return None if a replica fits nowhere.
    """
    free = [node for node in _free_slots(nodes, share) if node.replicas_that_fit(tp, 1)]
    placed: Counter[tuple[tuple[str, ...], int]] = Counter()  # replicas of the same agents on a node
    slots: Slots = {}
    first = 0
    for pipeline in pipelines:
        is_long = len(pipeline) > len(free)
        places = [index * len(free) // len(pipeline) if is_long else index for index in range(len(pipeline))]
        wanted = [(one.agents, place) for one, place in zip(pipeline, places, strict=True)]
        first = min(range(first, first + len(free)), key=_number_met(wanted, free, placed), default=0)
        for place, replica_id in zip(places, pipeline, strict=True):
            order = (free[(first + place + step) % len(free)] for step in range(len(free)))
            node = next((node for node in order if node.replicas_that_fit(tp, 1)), None)
            if node is None:
                return None
            slots[replica_id] = node.reserve(tp)
            placed[replica_id.agents, node.number] += 1
        first += len(pipeline) if len(pipeline) < len(free) else 0
    return slots


def _number_met(
    wanted: Sequence[tuple[tuple[str, ...], int]],
    free: Sequence["_FreeSlots"],
    placed: Mapping[tuple[tuple[str, ...], int], int],
) -> Callable[[int], int]:
    """Return a function from the node where a pipeline begins to the number of its agents' replicas that it meets."""

    def number_met(start: int) -> int:
        return sum(placed.get((agents, free[(start + place) % len(free)].number), 0) for agents, place in wanted)

    return number_met


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
