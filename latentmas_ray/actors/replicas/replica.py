"""One replica of an agent, or of several agents with the same actor: where turns are carried out.

What the runtime and the fleet know of it. It is one actor (`SingleReplica`) or one for each rank (`ShardedReplica`).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

import ray

from latentmas_ray.actors.agent_actor import Loaded
from latentmas_ray.actors.errors import ignoring_dead
from latentmas_ray.engine.turn import SegmentRead, TurnRequest, TurnResult
from latentmas_ray.memory import KVCacheSpec, TPRank
from latentmas_ray.transport import Transport


class ReplicaState(Enum):
    """STARTING or REPLACING → READY → LOST or CLOSED; a replica that is starting may be lost, too."""

    STARTING = "starting"  # its actors load the model
    REPLACING = "replacing"  # the same, in place of a lost one: turns may be submitted already, and wait
    READY = "ready"  # its model is loaded
    LOST = "lost"  # an actor died, hangs or was given up: none of its turns will be carried out any more
    CLOSED = "closed"  # ended on purpose, with nothing left to do


@dataclass(eq=False)
class SegmentLocation:
    """The node of the actor that makes a segment, and the nodes whose actors have read it."""

    source_node: str
    stays: bool = False  # its readers are the actor that made it
    final_at: float | None = None  # when its turn was reported, by the driver's monotonic clock
    readers: set[str] = field(default_factory=set)

    def account(self, read: SegmentRead, *, reader_node: str, shares_node: bool) -> SegmentRead:
        """The transfer with its link and the bytes that it moved: where a node's readers share one copy, the first of
        them moves the whole segment, and the others find it there."""
        if self.stays:
            return replace(read, link="same_process", moved_bytes=0)
        is_first = reader_node not in self.readers
        self.readers.add(reader_node)
        return replace(
            read,
            link="same_node" if reader_node == self.source_node else "cross_node",
            moved_bytes=read.num_bytes if is_first or not shares_node else 0,
        )


@dataclass(frozen=True, eq=False)
class SegmentRef:
    """References to the parcels of a segment, `chunks[rank][part]`, and where each rank's are."""

    chunks: tuple[tuple[ray.ObjectRef, ...], ...]
    whereabouts: tuple[SegmentLocation, ...]
    # Who holds bytes of it until they are released: the actors that made it, and readers that may keep a copy.
    holders: list[tuple[Any, tuple[ray.ObjectRef, ...]]] = field(default_factory=list)

    def release(self) -> None:
        """Tell all holders that nobody will read it any more."""
        for actor, chunks in self.holders:
            for chunk in chunks:  # one by one: what failed to come must not keep what came
                actor.release.options(concurrency_group="side").remote(chunk)


@dataclass(frozen=True, eq=False)
class Turn:
    """A turn at a replica, over when one of `reports` is there. Holds no reference to what it reads, or that would live
    as long as the turn's ticket."""

    number: int
    submitted_at: float  # on the monotonic clock of this process
    reports: tuple[ray.ObjectRef, ...]
    reads: Mapping[str, tuple[SegmentLocation, ...]]
    writes: tuple[SegmentLocation, ...] = ()
    begun: tuple[ray.ObjectRef, ...] = ()

    @property
    def ready_at(self) -> float | None:
        """Since when all that it reads has been written; None if that is not so."""
        times = [self.submitted_at, *(places[0].final_at for places in self.reads.values())]
        return None if None in times else max(time for time in times if time is not None)


class Replica(ABC):
    """Turns go in by `submit` and come out by `report`; in between they are `pending`, in the order of submission."""

    def __init__(
        self, actors: Sequence[Any], nodes: Sequence[str], *, stays: bool = False, spec: KVCacheSpec | None = None
    ) -> None:
        """`nodes` are where the actors are to come up. `stays`: all that reads what it writes is itself. `spec` is of
        the memory of the whole model, where that is known already."""
        self.stays = stays
        self.spec = spec
        self.actors = tuple(actors)
        self.nodes = tuple(nodes)
        self.state = ReplicaState.STARTING
        self.lost_because = ""
        self.suspect: Turn | None = None  # the turn that was being carried out when it was lost
        self.pending: dict[Turn, None] = {}
        self._num_turns = 0

    @abstractmethod
    def start(self, transport: Transport | None = None) -> list[ray.ObjectRef]:
        """Have the model loaded: references to a `Loaded` of each actor, in order, for `accept`. With a transport turns
        may be submitted at once, and wait."""

    def accept(self, loaded: Sequence[Loaded]) -> KVCacheSpec:
        """Take note of what the actors have loaded; returns `spec`.

        Raises IncompatibleMemoryError if it is not one model.
        """
        whole = loaded[0].spec.of_shard(TPRank())
        for rank, one in enumerate(loaded):
            whole.of_shard(TPRank(rank, len(loaded))).check_same(one.spec)
        if self.spec is not None:
            self.spec.check_same(whole)
        self.spec = whole
        self.nodes = tuple(one.node_id for one in loaded)
        self.state = ReplicaState.READY
        return whole

    def use(self, transport: Transport) -> list[ray.ObjectRef]:
        """Have memory travel this way: references to wait for."""
        return [actor.use.options(concurrency_group="side").remote(transport) for actor in self.actors]

    def call(self) -> list[ray.ObjectRef]:
        """Ask the actors for a sign of life, whatever else they do."""
        return [actor.__ray_ready__.remote() for actor in self.actors]

    @abstractmethod
    def submit(
        self, work: TurnRequest, segments: Mapping[str, SegmentRef], *, transport: Transport, overlap: bool
    ) -> tuple[SegmentRef | None, Turn]:
        """Queue a turn; the segment that it will write (None for a text agent), and the turn.

        With `overlap` a prompt's memory leaves while its agent still thinks.
        """

    @abstractmethod
    def report(self, turn: Turn, *, shares_node: bool) -> TurnResult:
        """The report of a turn that is over. `shares_node` is a trait of the transport.

        Raises TurnError if the turn failed, a user's mistake as it is, TurnLostError if what it reads could not be had,
        ActorError if an actor died.
        """

    @abstractmethod
    def cancel(self, turn: Turn) -> None:
        """Nobody will ask for this turn. Never raises."""

    @property
    def at_work(self) -> Turn | None:
        """The turn that is most likely being carried out: turns begin in the order in which they become ready."""
        ready = [(turn.ready_at, turn) for turn in self.pending if turn.ready_at is not None]
        return min(ready, key=lambda one: one[0])[1] if ready else None

    def mark_dead(self, reason: str, *, is_at_fault: bool = True) -> None:
        """End it: no turn of those that are pending will be reported. `is_at_fault`: it is lost by itself, and a turn
        may be why. Of several reasons the first one counts."""
        if self.state is not ReplicaState.LOST:
            self.state = ReplicaState.LOST
            self.lost_because = reason
            # Not only where it is READY: a turn may begin, and kill, before anybody has heard that the model is there.
            # Where nothing is ready the oldest may have begun all the same: it takes in what comes early.
            if is_at_fault:
                self.suspect = self.at_work or next(iter(self.pending), None)
        self.end()

    def end(self) -> None:
        """End the actors. Safe to call twice."""
        if self.state is not ReplicaState.LOST:
            self.state = ReplicaState.CLOSED
        for actor in self.actors:
            with ignoring_dead("actor was not ended"):
                ray.kill(actor)


def places_of(segments: Mapping[str, SegmentRef], work: TurnRequest) -> dict[str, tuple[SegmentLocation, ...]]:
    """Where the segments are that a turn reads."""
    return {name: segments[name].whereabouts for name in work.segment_order()}
