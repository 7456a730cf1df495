"""A replica: one or more actors that hold one copy of the model and execute the turns of one or more agents.

The runtime and the replica manager use this interface. `SingleReplica` has one actor, `ShardedReplica` one per rank.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

import ray

from latentmas_ray.actors.agent_actor import Loaded
from latentmas_ray.actors.errors import get_outcome, ignoring_dead
from latentmas_ray.config import ActorLink
from latentmas_ray.engine.timing.progress import TurnProgress
from latentmas_ray.engine.turn import SegmentRead, TurnRequest, TurnResult
from latentmas_ray.errors import TurnLostError
from latentmas_ray.memory import KVCacheSpec, TPRank
from latentmas_ray.scheduler.protocol import TurnHandle
from latentmas_ray.transport import Place, Transport
from latentmas_ray.transport.make import TRANSPORTS

_PROGRESS_SECONDS = 2.0  # to ask actors how far they are


class ReplicaState(Enum):
    """STARTING or REPLACING → READY → RETIRING → LOST or CLOSED; a replica that is starting may be lost, too."""

    STARTING = "starting"  # its actors are loading the model
    REPLACING = "replacing"  # the same, in place of a lost one or added: turns may be submitted and wait
    READY = "ready"  # its model is loaded
    RETIRING = "retiring"  # it gets no new turns; it ends when its turns are over and its segments read
    LOST = "lost"  # an actor died, hangs or was given up: its pending turns are lost
    CLOSED = "closed"  # shut down on purpose


@dataclass(eq=False)
class SegmentLocation:
    """Where the actor is that produces a segment, and the nodes whose actors have read it."""

    source_node: str
    source_gpu: str | None = None  # None: it has none, or has not told yet
    colocated: bool = False  # its readers are in the actor that produces it
    final_at: float | None = None  # when its turn ended, by the driver's monotonic clock
    readers: set[str] = field(default_factory=set)

    def record_read(self, read: SegmentRead, reader: Place) -> SegmentRead:
        """Return `read` with its link and the bytes that it moved, and record the reader's node.

        With a transport whose readers on one node share a copy, only the first of them moves bytes.
        """
        if self.colocated:
            return replace(read, link="same_process", moved_bytes=0)
        if read.transfer_mode == "translated":  # its node has no copy of the KV
            return replace(
                read, link=Place(self.source_node, self.source_gpu).link_to(reader), moved_bytes=read.num_bytes
            )
        is_first = reader.node not in self.readers
        self.readers.add(reader.node)
        return replace(
            read,
            link=Place(self.source_node, self.source_gpu).link_to(reader),
            moved_bytes=read.num_bytes if is_first or not _shares_node(read.transport) else 0,
        )


def _shares_node(transport: str) -> bool:
    """Return whether readers on one node share a copy; `transport` is a name of `Transport.name_of`."""
    return all(TRANSPORTS[name].capabilities.shares_node for name in transport.split("+"))  # type: ignore[index]


@dataclass(frozen=True, eq=False)
class SegmentRef:
    """References to a segment's chunks, `chunks[rank][part]`, and the location of each rank's."""

    chunks: tuple[tuple[ray.ObjectRef, ...], ...]
    locations: tuple[SegmentLocation, ...]
    # Actors that hold bytes of it until `release`: its producers, and readers whose transport stores a copy.
    holders: list[tuple[Any, tuple[ray.ObjectRef, ...]]] = field(default_factory=list)
    segment_id: str = ""  # the name by which its readers know it
    sent_over: frozenset[ActorLink] | None = None  # the links for which it is packed; None: all
    writer: "Replica | None" = None  # whose actors produce it, if memory stays there

    def can_be_read_on(self, nodes: Collection[str]) -> bool:
        """Return whether it is packed for readers on these nodes."""
        if self.sent_over is None:
            return True
        links = {"same_node" if place.source_node in nodes else "cross_node" for place in self.locations}
        sent = {"same_node" if link == "same_gpu" else link for link in self.sent_over}
        return links <= sent

    def release(self) -> None:
        """Free the segment at all holders."""
        for actor, chunks in self.holders:
            for chunk in chunks:  # one by one: a chunk that failed must not stop the others from being freed
                actor.release.options(concurrency_group="side").remote(chunk)


@dataclass(frozen=True, eq=False)
class Turn:
    """A turn submitted to a replica; it is over when one of `results` is ready.

    It holds no reference to the segments that it reads: they would live as long as the turn's handle.
    """

    number: int
    submitted_at: float  # on the monotonic clock of this process
    results: tuple[ray.ObjectRef, ...]  # one per rank
    reads: Mapping[str, tuple[SegmentLocation, ...]]
    writes: tuple[SegmentLocation, ...] = ()
    begun: tuple[ray.ObjectRef, ...] = ()

    @property
    def ready_at(self) -> float | None:
        """When the last segment that it reads was written; None while one is missing. Monotonic seconds."""
        times = [self.submitted_at, *(places[0].final_at for places in self.reads.values())]
        return None if None in times else max(time for time in times if time is not None)


class Replica(ABC):
    """`submit` queues a turn, `result` returns its result. In between it is in `pending`, in submission order."""

    def __init__(
        self,
        actors: Sequence[Any],
        nodes: Sequence[str],
        *,
        name: str = "",
        colocated: bool = False,
        spec: KVCacheSpec | None = None,
        first_number: int = 0,
    ) -> None:
        """`nodes` are the planned nodes of the actors. `name` is also that of the replica which replaces it.
        `colocated`: only this replica reads the segments that it writes. `spec` describes the memory of the whole
        model, if known; turns are numbered from `first_number`."""
        self.name = name
        self.colocated = colocated
        self.spec = spec
        self.actors = tuple(actors)
        self.nodes = tuple(nodes)
        self._gpus: tuple[str | None, ...] = ()
        self.state = ReplicaState.STARTING
        self.lost_because = ""
        self.was_retiring = False  # when it was lost
        self.is_node_lost = False  # what its node stores is out of reach, too
        self.suspect: Turn | None = None  # the turn that was running when it was lost
        self.pending: dict[Turn, TurnHandle | None] = {}  # the runtime's record of each
        self.stepped_at: float | None = None  # when its engine was seen to step, if it reports that; monotonic seconds
        self._num_turns = first_number

    @abstractmethod
    def start(self, transport: Transport | None = None) -> list[ray.ObjectRef]:
        """Start to load the model; return references to each actor's `Loaded`, in order, for `accept`.

        With a transport, turns may be submitted at once; they wait.
        """

    def accept(self, loaded: Sequence[Loaded]) -> KVCacheSpec:
        """Mark the replica READY with what its actors have loaded; return `spec`.

        Raises IncompatibleMemoryError if they did not load the same model.
        """
        whole = loaded[0].spec.of_shard(TPRank())
        for rank, one in enumerate(loaded):
            whole.of_shard(TPRank(rank, len(loaded))).check_same(one.spec)
        if self.spec is not None:
            self.spec.check_same(whole)
        self.spec = whole
        self.nodes = tuple(one.node_id for one in loaded)
        self._gpus = tuple(one.gpu for one in loaded)
        self.state = ReplicaState.READY
        return whole

    def lost_error(self, turn: Turn, agent: str) -> TurnLostError:
        """Return the error of an agent's turn that was lost with this replica."""
        why = f"the actor of agent {agent} died: {self.lost_because}"
        return TurnLostError(why, lacks_memory=False, is_suspect=self.suspect is turn)

    @property
    def is_up(self) -> bool:
        """Whether its model is loaded and its turns are executed."""
        return self.state in (ReplicaState.READY, ReplicaState.RETIRING)

    @property
    def takes_turns(self) -> bool:
        """Whether turns of new batches may go to it."""
        return self.state is not ReplicaState.RETIRING

    @property
    def knows_places(self) -> bool:
        """Whether its model is loaded, so that its actors have told their GPUs."""
        return bool(self._gpus)

    @property
    def places(self) -> tuple[Place, ...]:
        """Where its actors are, once that is known."""
        return tuple(Place(node, gpu) for node, gpu in zip(self.nodes, self._gpus, strict=True))

    def place_of(self, rank: int) -> Place:
        """Where one of its actors is; without its GPU while its model is loading."""
        return self.places[rank] if self.knows_places else Place(self.nodes[rank])

    def new_location(self, rank: int) -> SegmentLocation:
        """Return the location of a segment that one of its actors produces."""
        place = self.place_of(rank)
        return SegmentLocation(place.node, place.gpu, colocated=self.colocated)

    def use_transport(self, transport: Transport) -> list[ray.ObjectRef]:
        """Switch the actors to this transport; return references to wait for."""
        return [actor.use_transport.options(concurrency_group="side").remote(transport) for actor in self.actors]

    def ping(self) -> list[ray.ObjectRef]:
        """Call each actor; return references that become ready while the actor is alive, even if it is busy."""
        return [actor.__ray_ready__.remote() for actor in self.actors]

    def end_connections(self, host: str) -> None:
        """Let the actors end their connections to a host that does not answer, and attempts to make them."""
        for actor in self.actors:
            actor.end_connections.options(concurrency_group="side").remote(host)

    def stop_waiting(self, segment_ids: Sequence[str]) -> None:
        """Let the actors wait no longer for these segments, which are lost."""
        for actor in self.actors:
            actor.stop_waiting.options(concurrency_group="side").remote(segment_ids)

    def ask_progress(self) -> ray.ObjectRef:
        """Ask how far the running turns are; return a reference to a list of `TurnProgress`."""
        return self.actors[0].get_progress.options(concurrency_group="side").remote()

    @abstractmethod
    def submit(
        self, work: TurnRequest, segments: Mapping[str, SegmentRef], *, transport: Transport, overlap: bool
    ) -> tuple[SegmentRef | None, Turn]:
        """Queue a turn; return the segment that it will write (None for a text agent), and the turn.

        With `overlap`, the prompt's chunk is sent while the agent still thinks.
        """

    def can_overlap(self, work: TurnRequest) -> bool:
        """Whether a reader can receive the prompt's chunk while the agent still thinks. Colocated agents run one after
        another: the reader cannot start before the writer has finished."""
        return work.can_overlap and not self.colocated

    @abstractmethod
    def result(self, turn: Turn) -> TurnResult:
        """Return the result of a turn that is over.

        Raises TurnError if the turn failed, InputError kinds as they were raised, TurnLostError if memory that it reads
        is lost, ActorError if an actor died.
        """

    @abstractmethod
    def cancel(self, turn: Turn) -> None:
        """Cancel the turn if it has not started, else discard its result. Never raises."""

    def cancel_questions(self, turn: Turn, question_ids: Collection[str] | None) -> None:  # noqa: B027  optional
        """Drop these questions (None: all) of the turn, if the replica can do that. Never raises."""

    @property
    def current_turn(self) -> Turn | None:
        """The turn that is most likely running: turns start in the order in which they become ready."""
        ready = [(turn.ready_at, turn) for turn in self.pending if turn.ready_at is not None]
        return min(ready, key=lambda one: one[0])[1] if ready else None

    def mark_dead(self, reason: str, *, is_at_fault: bool = True, with_node: bool = False) -> None:
        """Mark the replica LOST and shut it down; its pending turns get no result. The first `reason` counts.

        `is_at_fault`: it was not lost with its node, so the turn that was running may be the cause.
        `with_node`: all that its node stores is lost, too.
        """
        if self.state is not ReplicaState.LOST:
            self.was_retiring = self.state is ReplicaState.RETIRING
            self.state = ReplicaState.LOST
            self.lost_because = reason
            self.is_node_lost = with_node
            # Also while it is not READY: a turn may start, and kill the actor, before the driver knows that the model
            # is loaded. If no turn is ready, the oldest may have started: it absorbs chunks that come early.
            if is_at_fault:
                self.suspect = self.current_turn or next(iter(self.pending), None)
        self.shut_down()

    def shut_down(self) -> None:
        """Kill the actors. Safe to call twice."""
        if self.state is not ReplicaState.LOST:
            self.state = ReplicaState.CLOSED
        for actor in self.actors:
            with ignoring_dead("actor was not killed"):
                ray.kill(actor)


def locations_of(segments: Mapping[str, SegmentRef]) -> dict[str, tuple[SegmentLocation, ...]]:
    """Return the locations of the segments that a turn reads, by source."""
    return {name: segment.locations for name, segment in segments.items()}


def ask_all_progress(busy: Sequence[Replica]) -> list[TurnProgress]:
    """Return how far the turns of these replicas are; one that does not answer at once is left out."""
    if not busy:
        return []
    found = []
    with ignoring_dead("running turns are not known"):
        asked = [replica.ask_progress() for replica in busy]
        ready, _ = ray.wait(asked, num_returns=len(asked), timeout=_PROGRESS_SECONDS)
        found = [get_outcome(reference) for reference in ready]
    return [progress for answer in found if isinstance(answer, list) for progress in answer]
