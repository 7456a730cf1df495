"""A replica with one actor that holds the whole model."""

import time
from collections.abc import Mapping
from dataclasses import replace
from itertools import chain

import ray

from latentmas_ray.actors.errors import ignoring_dead, turn_errors
from latentmas_ray.actors.replicas.replica import Replica, SegmentRef, Turn, locations_of
from latentmas_ray.engine.turn import TurnRequest, TurnResult
from latentmas_ray.transport import Transport


class SingleReplica(Replica):
    """A replica with one `AgentActor`, which the manager has placed."""

    def start(self, transport: Transport | None = None) -> list[ray.ObjectRef]:
        (actor,) = self.actors
        # In another concurrency group than turns: those that are submitted already wait in the turns' thread.
        return [actor.load.options(concurrency_group="side").remote(transport)]

    def submit(
        self, work: TurnRequest, segments: Mapping[str, SegmentRef], *, transport: Transport, overlap: bool
    ) -> tuple[SegmentRef | None, Turn]:
        """Ray fetches positional arguments before it calls the method; the later chunks are passed in a list, so the
        turn itself waits for them."""
        (actor,) = self.actors
        read = [segment.chunks[0] for segment in segments.values()]
        self._prefetch([one for name, one in segments.items() if name not in work.translated], transport)
        arguments = (work, [chunks[1:] for chunks in read], *(chunks[0] for chunks in read))
        self._num_turns += 1
        number = self._num_turns
        begun: tuple[ray.ObjectRef, ...] = ()
        chunks: tuple[ray.ObjectRef, ...]
        if overlap and self.can_overlap(work):
            begin = actor.begin_turn.options(num_returns=2, concurrency_group="turns")
            first, begun_ref = begin.remote(number, *arguments)
            end = actor.end_turn.options(num_returns=2, concurrency_group="ends")
            last, result = end.remote(begun_ref)
            chunks, begun = (first, last), (begun_ref,)
        else:
            run = actor.run_turn.options(num_returns=2, concurrency_group="turns")
            segment, result = run.remote(*arguments)
            chunks = (segment,)
        writes = (self.new_location(0),)
        turn = Turn(number, time.monotonic(), (result,), locations_of(segments), writes, begun)
        if work.thinks != "latent":
            return None, turn
        holders = [] if transport.capabilities.survives_producer else [(actor, chunks)]
        writer = self if self.colocated else None
        return SegmentRef((chunks,), writes, holders, work.segment_id, work.sent_over, writer), turn

    def result(self, turn: Turn) -> TurnResult:
        with turn_errors():
            result: TurnResult = ray.get(turn.results[0])
        place = self.place_of(0)
        reads = tuple(turn.reads[read.source][0].record_read(read, place) for read in result.reads)
        return replace(result, reads=reads)

    def cancel(self, turn: Turn) -> None:
        """A turn that is running continues to its end; its result is dropped."""
        for reference in (*turn.results, *turn.begun):
            with ignoring_dead("turn was not cancelled"):
                ray.cancel(reference, force=False)
        if turn.begun:
            self.actors[0].discard_turn.options(concurrency_group="side").remote(turn.number)

    def _prefetch(self, read: list[SegmentRef], transport: Transport) -> None:
        """Start to copy segments from other nodes to this one while the actor still executes other turns."""
        (actor,) = self.actors
        remote = [segment for segment in read if segment.locations[0].source_node != self.nodes[0]]
        if remote:
            references = list(chain(*(segment.chunks[0] for segment in read)))
            actor.prefetch.options(concurrency_group="prefetch").remote(references)
        for segment in remote if transport.capabilities.readers_keep else ():
            segment.holders.append((actor, segment.chunks[0]))
