"""Which node and GPU each shard gets. Pure: from chains of actors and what the nodes have to give."""

from collections.abc import Sequence
from dataclasses import dataclass

from latentmas_ray.placement.resources import ActorResources, NodeResources


@dataclass(frozen=True)
class Slot:
    """Where one shard goes: numbers of a node, and of a GPU there. None: it computes on the CPU."""

    node: int
    gpu: int | None


@dataclass(frozen=True)
class ReplicaId:
    """One replica of an agent, or of several agents with the same actor."""

    agents: tuple[str, ...]
    replica: int


Chain = tuple[ReplicaId, ...]  # the teams that hand over to one another
Seats = dict[ReplicaId, tuple[Slot, ...]]  # one seat for each tp rank


def assign_packed(
    chains: Sequence[Chain], nodes: Sequence[NodeResources], share: ActorResources, tp: int
) -> Seats | None:
    """Every chain on the first node that has room for all of it; None if there is none for some chain."""
    rooms = _rooms(nodes, share)
    slots: Seats = {}
    for chain in sorted(chains, key=len, reverse=True):
        room = next((room for room in rooms if room.replicas_that_fit(tp, len(chain)) == len(chain)), None)
        if room is None:
            return None
        slots.update({replica_id: room.take(tp) for replica_id in chain})
    return slots


def assign_spread(
    chains: Sequence[Chain], nodes: Sequence[NodeResources], share: ActorResources, tp: int
) -> Seats | None:
    """The teams of a chain over all nodes, in order: where there are fewer nodes than teams, neighbours stay together.

    A full node's share goes to the next. None if there is no room for some team.
    """
    rooms = [room for room in _rooms(nodes, share) if room.replicas_that_fit(tp, 1)]
    slots: Seats = {}
    first = 0
    for chain in chains:
        for index, replica_id in enumerate(chain):
            wanted = first + (index if len(chain) <= len(rooms) else index * len(rooms) // len(chain))
            order = (rooms[(wanted + step) % len(rooms)] for step in range(len(rooms)))
            room = next((room for room in order if room.replicas_that_fit(tp, 1)), None)
            if room is None:
                return None
            slots[replica_id] = room.take(tp)
        first += len(chain) if len(chain) < len(rooms) else 0
    return slots


class _FreeSlots:
    """The places that are free on one node: on each GPU, or on its cores (None: without a bound)."""

    def __init__(self, number: int, node: NodeResources, share: ActorResources) -> None:
        self.number = number
        self.on_gpus = [share.actors_per_gpu] * node.whole_gpus
        self.on_cores = 0 if share.num_gpus else share.places_on(node)
        self.has_gpus = bool(share.num_gpus)

    def replicas_that_fit(self, tp: int, wanted: int) -> int:
        """How many of `wanted` teams of `tp` shards have room; the shards of one are on different GPUs."""
        if not self.has_gpus:
            return wanted if self.on_cores is None else min(wanted, self.on_cores // tp)
        free = list(self.on_gpus)
        for count in range(wanted):
            if _choose(free, tp) is None:
                return count
        return wanted

    def take(self, tp: int) -> tuple[Slot, ...]:
        """Seats for one team."""
        if not self.has_gpus:
            self.on_cores = None if self.on_cores is None else self.on_cores - tp
            return (Slot(self.number, None),) * tp
        chosen = _choose(self.on_gpus, tp)
        assert chosen is not None, "the caller has looked"
        return tuple(Slot(self.number, gpu) for gpu in chosen)


def _rooms(nodes: Sequence[NodeResources], share: ActorResources) -> list[_FreeSlots]:
    return [_FreeSlots(number, node, share) for number, node in enumerate(nodes)]


def _choose(free: list[int], tp: int) -> list[int] | None:
    """Take a place on each of `tp` GPUs, the fullest first, which is how Ray gives fractions away; None, and nothing
    taken, if there are too few."""
    usable = sorted((gpu for gpu, places in enumerate(free) if places), key=lambda gpu: (free[gpu], gpu))[:tp]
    if len(usable) < tp:
        return None
    for gpu in usable:
        free[gpu] -= 1
    return sorted(usable)
