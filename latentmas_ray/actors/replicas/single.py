"""A replica that is one actor with the whole model."""

import time
from collections.abc import Mapping
from dataclasses import replace
from itertools import chain

import ray

from latentmas_ray.actors.errors import ignoring_dead, turn_errors
from latentmas_ray.actors.replicas.replica import Replica, SegmentLocation, SegmentRef, Turn, places_of
from latentmas_ray.engine.turn import TurnRequest, TurnResult
from latentmas_ray.transport import Transport


class SingleReplica(Replica):
    """Made of an actor of `AgentActor` that somebody else has placed."""

    def start(self, transport: Transport | None = None) -> list[ray.ObjectRef]:
        (actor,) = self.actors
        # Beside the turns: those that are submitted already wait in the thread that is theirs.
        return [actor.load.options(concurrency_group="side").remote(transport)]

    def submit(
        self, work: TurnRequest, segments: Mapping[str, SegmentRef], *, transport: Transport, overlap: bool
    ) -> tuple[SegmentRef | None, Turn]:
        """Ray waits for positional arguments, and brings them to the actor, before it calls the method; the later
        parcels, in a list, are the turn's own to wait for."""
        (actor,) = self.actors
        read = [segments[name].chunks[0] for name in work.segment_order()]
        self._fetch([segments[name] for name in work.segment_order()], transport)
        arguments = (work, [chunks[1:] for chunks in read], *(chunks[0] for chunks in read))
        self._num_turns += 1
        number = self._num_turns
        begun: tuple[ray.ObjectRef, ...] = ()
        chunks: tuple[ray.ObjectRef, ...]
        # Agents of one actor take turns: nobody could read a prompt's memory before its agent has finished.
        if overlap and work.leaves_early and not self.stays:
            begin = actor.begin_turn.options(num_returns=2, concurrency_group="turns")
            first, begun_ref = begin.remote(number, *arguments)
            end = actor.end_turn.options(num_returns=2, concurrency_group="ends")
            last, report = end.remote(begun_ref)
            chunks, begun = (first, last), (begun_ref,)
        else:
            run = actor.run_turn.options(num_returns=2, concurrency_group="turns")
            segment, report = run.remote(*arguments)
            chunks = (segment,)
        writes = (SegmentLocation(self.nodes[0], stays=self.stays),)
        turn = Turn(number, time.monotonic(), (report,), places_of(segments, work), writes, begun)
        if work.thinks != "latent":
            return None, turn
        holders = [] if transport.capabilities.survives_producer else [(actor, chunks)]
        return SegmentRef((chunks,), writes, holders), turn

    def report(self, turn: Turn, *, shares_node: bool) -> TurnResult:
        with turn_errors():
            report: TurnResult = ray.get(turn.reports[0])
        node = self.nodes[0]
        reads = tuple(
            turn.reads[read.source][0].account(read, reader_node=node, shares_node=shares_node) for read in report.reads
        )
        return replace(report, reads=reads)

    def cancel(self, turn: Turn) -> None:
        """A turn that runs goes on to its end and is forgotten."""
        for reference in (*turn.reports, *turn.begun):
            with ignoring_dead("turn was not cancelled"):
                ray.cancel(reference, force=False)
        if turn.begun:
            self.actors[0].forget_turn.options(concurrency_group="side").remote(turn.number)

    def _fetch(self, read: list[SegmentRef], transport: Transport) -> None:
        """Have what lies on other nodes brought here while the actor still has other things to do."""
        (actor,) = self.actors
        remote = [segment for segment in read if segment.whereabouts[0].source_node != self.nodes[0]]
        if remote:
            references = list(chain(*(segment.chunks[0] for segment in read)))
            actor.fetch.options(concurrency_group="fetch").remote(references)
        for segment in remote if transport.capabilities.readers_keep else ():
            segment.holders.append((actor, segment.chunks[0]))
