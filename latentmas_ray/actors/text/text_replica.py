"""Replicas whose agents all write text, of one actor or of one per tensor-parallel rank. Their turns overlap."""

import time
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import ray

from latentmas_ray.actors.errors import get_outcome, ignoring_dead, turn_errors
from latentmas_ray.actors.replicas.replica import Replica, ReplicaState, SegmentRef, Turn, locations_of
from latentmas_ray.actors.replicas.sharded import ShardedReplica, ends_replica
from latentmas_ray.actors.replicas.single import SingleReplica
from latentmas_ray.actors.text.event_queue import TextReport
from latentmas_ray.engine.turn import SegmentRead, TurnRequest, TurnResult
from latentmas_ray.errors import ActorError
from latentmas_ray.transport import Transport
from latentmas_ray.writing.events import WriterEvent

REPORT_SECONDS = 5.0  # the longest wait for a report: they also show that the engine steps
_UNAVAILABLE_SECONDS = 5.0  # until a replica that did not report is asked again


class TextReplica(Replica):
    """A replica that writes the questions of several turns at the same time and reports each that ends. Its first actor
    has the writer."""

    def __init__(self, *arguments: object, **more: object) -> None:
        super().__init__(*arguments, **more)  # type: ignore[arg-type]
        self._report: ray.ObjectRef | None = None  # the open call
        self._asks_at = 0.0
        self._num_steps = -1
        self._writes: set[int] = set()  # turns with tokens
        self._reads: dict[int, tuple[SegmentRead, ...]] = {}  # by turn, with their links

    @abstractmethod
    def record_reads(self, turn: Turn, reads: Sequence[SegmentRead]) -> tuple[SegmentRead, ...]:
        """Return the transfers of the first actor with their links and the bytes that they moved."""

    def with_links(self, turn: Turn, result: TurnResult) -> TurnResult:
        """Return the result of a turn, or of one of its questions, with the links of its transfers. They are recorded
        once, however many results a turn has."""
        if turn.number not in self._reads:
            self._reads[turn.number] = self.record_reads(turn, result.reads)
        return replace(result, reads=self._reads[turn.number])

    def cancel_questions(self, turn: Turn, question_ids: Collection[str] | None) -> None:
        self.actors[0].cancel_questions.options(concurrency_group="side").remote(turn.number, question_ids)

    def report_reference(self) -> ray.ObjectRef | None:
        """Return a reference to the actor's next report; None if nothing is expected. The same one until `take`."""
        is_live = self.state not in (ReplicaState.LOST, ReplicaState.CLOSED)
        if self._report is None and self.pending and is_live and time.monotonic() >= self._asks_at:
            self._report = self.actors[0].next_events.options(concurrency_group="events").remote(REPORT_SECONDS)
        return self._report

    def take_report(self) -> list[tuple[Turn, WriterEvent]]:
        """Return the events of a report that has come, of turns that are pending; an actor that is dead has none."""
        reference, self._report = self._report, None
        report = get_outcome(reference)
        if not isinstance(report, TextReport):
            self._asks_at = time.monotonic() + _UNAVAILABLE_SECONDS
            return []
        if report.num_steps != self._num_steps:
            self._num_steps = report.num_steps
            self.stepped_at = time.monotonic()
        turns = {turn.number: turn for turn in self.pending}
        # Not where a turn's result is fetched: if that is an error, who has tokens tells who is suspected.
        self._writes = (self._writes | {event.number for event in report.events}).intersection(turns)
        self._reads = {number: reads for number, reads in self._reads.items() if number in turns}
        return [(turns[event.number], event) for event in report.events if event.number in turns]

    @property
    def current_turn(self) -> Turn | None:
        """The turn that most likely started last: those with tokens have done several steps well. Without such a turn,
        the oldest that is ready."""
        ready = [turn for turn in self.pending if turn.ready_at is not None]
        fresh = [turn for turn in ready if turn.number not in self._writes]
        return min(fresh or ready, key=lambda turn: turn.ready_at or 0.0, default=None)


class SingleTextReplica(TextReplica, SingleReplica):
    """A replica with one `TextActor`."""

    def submit(
        self, work: TurnRequest, segments: Mapping[str, SegmentRef], *, transport: Transport, overlap: bool
    ) -> tuple[SegmentRef | None, Turn]:
        (actor,) = self.actors
        read = [segment.chunks[0] for segment in segments.values()]
        self._prefetch([one for name, one in segments.items() if name not in work.translated], transport)
        self._num_turns += 1
        write = actor.write_turn.options(concurrency_group="turns")
        result = write.remote(self._num_turns, work, [chunks[1:] for chunks in read], *(chunks[0] for chunks in read))
        return None, Turn(self._num_turns, time.monotonic(), (result,), locations_of(segments))

    def result(self, turn: Turn) -> TurnResult:
        with turn_errors():
            result: TurnResult = ray.get(turn.results[0])
        return self.with_links(turn, result)

    def record_reads(self, turn: Turn, reads: Sequence[SegmentRead]) -> tuple[SegmentRead, ...]:
        place = self.place_of(0)
        return tuple(turn.reads[read.source][0].record_read(read, place) for read in reads)

    def cancel(self, turn: Turn) -> None:
        """Cancel a turn; the questions that are being written leave the engine."""
        self.cancel_questions(turn, None)
        for reference in turn.results:
            with ignoring_dead("turn was not cancelled"):
                ray.cancel(reference, force=False)


class ShardedTextReplica(TextReplica, ShardedReplica):
    """A replica of `TextRankActor`s, in the order of their ranks. Rank 0 has the writer."""

    def submit(
        self, work: TurnRequest, segments: Mapping[str, SegmentRef], *, transport: Transport, overlap: bool
    ) -> tuple[SegmentRef | None, Turn]:
        self._num_turns += 1
        keeps = transport.capabilities.readers_keep
        results = []
        for rank, actor in enumerate(self.actors):
            reads = [
                self._shard_refs(segment, rank, keeps=keeps and name not in work.translated)
                for name, segment in segments.items()
            ]
            write = actor.write_rank.options(concurrency_group="turns")
            results.append(write.remote(self._num_turns, work, reads))
        return None, Turn(self._num_turns, time.monotonic(), tuple(results), locations_of(segments))

    def result(self, turn: Turn) -> TurnResult:
        """Return rank 0's result, with the bytes of all ranks. Raises like rank 0, and ActorError if a rank died or is
        out of step."""
        results, errors = self._collect(turn)
        if set(errors) == {0} and not ends_replica(errors[0]):
            with turn_errors():
                raise errors[0]
        if errors:
            self._raise(errors, is_over=False)
        if missing := [str(rank) for rank in range(self.num_ranks) if rank not in results]:
            raise ActorError(f"rank {', '.join(missing)} of {self.num_ranks} did not end a turn that others have ended")
        return self.with_links(turn, results[0])

    def record_reads(self, turn: Turn, reads: Sequence[SegmentRead]) -> tuple[SegmentRead, ...]:
        """Rank 0 stands for all: each reads as many heads, and so as many bytes."""
        result = TurnResult(agent="", prompt_tokens=(), reads=tuple(reads))
        first = self._record_reads(result, turn.reads, 0).reads
        return tuple(
            replace(read, num_bytes=read.num_bytes * self.num_ranks, moved_bytes=read.moved_bytes * self.num_ranks)
            for read in first
        )

    def cancel(self, turn: Turn) -> None:
        """Cancel a turn. All ranks take part in it until rank 0 says that it is over."""
        self.cancel_questions(turn, None)
