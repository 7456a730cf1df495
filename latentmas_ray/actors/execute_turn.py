"""What an actor does with one turn: unpack, call the engine, pack, return. The same for every runtime."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from latentmas_ray.actors.receiver import GivenMemoryReceiver, IncomingSegment, SegmentReceiver, SentChunk
from latentmas_ray.engine.segment_io import Incoming, Outgoing
from latentmas_ray.engine.turn import TurnRequest, TurnResult, WireChunk
from latentmas_ray.memory import KVCacheSpec, SegmentChunk
from latentmas_ray.memory.wire import encode_chunk, raw_bytes
from latentmas_ray.transport import Transport


class Runner(Protocol):
    """Whoever carries out turns; `engine.runner.TurnRunner`, or a stand-in that waits on a timer."""

    @property
    def spec(self) -> KVCacheSpec:
        """What its memory looks like."""

    @property
    def device(self) -> str:
        """Where it computes, for the log."""

    def run(
        self, work: TurnRequest, memory: Incoming, *, outgoing: Outgoing | None = None
    ) -> tuple[SegmentChunk | None, TurnResult]:
        """One turn."""

    def measure_prefill(self, num_tokens: int) -> float:
        """Tokens per second of a prefill of so many."""


class SegmentSender:
    """Packs the pieces of a turn's segment and sends them on."""

    def __init__(
        self, transport: Transport, send: Callable[[SentChunk], None], *, leaves_early: bool, keeps_memory: bool
    ) -> None:
        self.leaves_early = leaves_early
        self.reserve = transport.reserve
        self.kept: list[WireChunk] = []
        self._transport = transport
        self._send = send
        self._keeps_memory = keeps_memory

    def publish(self, final_at: float, piece: SegmentChunk) -> None:
        """Pack a piece and send it."""
        if self._keeps_memory:  # before its bytes belong to the transport
            self.kept.append(copy_to_wire(piece))
        self._send(SentChunk(final_at, self._transport.pack(piece)))


def copy_to_wire(piece: SegmentChunk) -> WireChunk:
    """A piece as bytes of its own, which nobody else writes to."""
    header, body = encode_chunk(piece)
    return header, raw_bytes(body).copy()


def stamp_departure(chunk: SentChunk, report: TurnResult) -> SentChunk:
    """A parcel that leaves when its turn is over. What was looked at meanwhile has kept it here, and is counted as
    `trace_seconds`: no transfer took that long."""
    return replace(chunk, final_at=time.time()) if report.trace_seconds else chunk


def execute_turn(
    runner: Runner,
    transport: Transport,
    work: TurnRequest,
    deliveries: Sequence[IncomingSegment],
    send: Callable[[SentChunk], None] | None = None,
    *,
    leaves_early: bool = False,
    idle_since: float | None = None,
) -> tuple[SentChunk | None, TurnResult]:
    """One turn on `deliveries`, which stand in the order of `work.segment_order()`.

    With `send` the segment leaves in parcels, the first early if that is wanted; without, it is returned as one, and
    its bytes may stay where they are. `idle_since` tells since when nothing else was to do (default: now). Returns that
    parcel (or None) and the report with the transfers filled in. Raises what the engine, the transport and the wire
    format raise.
    """
    idle_since = time.time() if idle_since is None else idle_since
    inbox: SegmentReceiver | GivenMemoryReceiver
    if work.given is not None:
        inbox = GivenMemoryReceiver(work.given, len(work.prompts), runner.spec)
    else:
        inbox = SegmentReceiver(transport, deliveries, runner.spec, idle_since=idle_since)
    outbox = (
        None
        if send is None
        else SegmentSender(transport, send, leaves_early=leaves_early, keeps_memory=work.keeps_memory)
    )
    piece, report = runner.run(work, inbox, outgoing=outbox)
    begin, final_at = time.perf_counter(), time.time()
    kept = tuple(outbox.kept) if outbox is not None else ()
    if piece is not None and work.keeps_memory:
        kept = (copy_to_wire(piece),)
    chunk = None if piece is None else SentChunk(final_at, transport.pack(piece))
    phases = replace(
        report.phases,
        wait=inbox.waited_seconds,
        absorb=max(0.0, report.phases.absorb - inbox.waited_seconds),
        # A segment may still lie in the engine's cache: packing is then what copies it out.
        emit=report.phases.emit + time.perf_counter() - begin,
    )
    return chunk, replace(report, reads=inbox.account(transport.name, work.recomputed), phases=phases, kept=kept)
