"""Executes one turn: unpack the segments it reads, call the engine, pack its segment. Both runtimes call this."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Protocol

from latentmas_ray.actors.receiver import IncomingSegment, SentChunk, make_receiver
from latentmas_ray.authentication import Authenticator, ChunkId
from latentmas_ray.engine.segment_io import Incoming, Outgoing
from latentmas_ray.engine.timing.phase_spans import cut_waits
from latentmas_ray.engine.timing.progress import TurnProgress
from latentmas_ray.engine.turn import OnTokens, PhaseSpan, TurnRequest, TurnResult, WireChunk
from latentmas_ray.memory import KVCacheSpec, SegmentChunk
from latentmas_ray.memory.wire import encode_chunk, from_raw, raw_bytes, remove_tags
from latentmas_ray.transport import Transport


class Runner(Protocol):
    """Executes turns: `engine.runner.TurnRunner`, or a stand-in that waits on a timer."""

    @property
    def spec(self) -> KVCacheSpec:
        """Shape and dtype of its working memory."""

    @property
    def device(self) -> str:
        """The device it computes on, for the log."""

    @property
    def progress(self) -> TurnProgress | None:
        """How far the running turn is; None between turns. Any thread may ask."""

    def run(
        self,
        work: TurnRequest,
        memory: Incoming,
        *,
        outgoing: Outgoing | None = None,
        on_tokens: OnTokens | None = None,
    ) -> tuple[SegmentChunk | None, TurnResult]:
        """Execute one turn; return its segment (None for a text agent, or if `outgoing` got it) and its result.
        `on_tokens` gets the tokens of the questions in `TurnRequest.streamed` as they are written."""

    def measure_prefill(self, num_tokens: int) -> float:
        """Return the tokens per second of a prefill of `num_tokens`."""


class SegmentSender:
    """Packs the chunks of a turn's segment and passes each to `send`."""

    def __init__(
        self, transport: Transport, send: Callable[[SentChunk], None], work: TurnRequest, *, overlaps: bool
    ) -> None:
        self.overlaps = overlaps
        transport = transport.for_links(work.sent_over)
        self.reserve = transport.reserve
        self.kept: list[WireChunk] = []  # copies for the turn's result
        self._transport = transport
        self._send = send
        self._keeps_memory, self._segment_id = work.keeps_memory, work.segment_id
        self._num_sent = 0

    def publish(self, final_at: float, piece: SegmentChunk) -> None:
        """Pack a chunk and send it; `final_at` is seconds of the wall clock."""
        chunk_id = ChunkId(self._segment_id, self._num_sent)
        if self._keeps_memory:  # before the transport owns its bytes
            self.kept.append(copy_to_wire(piece, self._transport.authenticator, chunk_id))
        self._num_sent += 1
        self._send(SentChunk(final_at, self._transport.pack(piece, chunk_id)))


def copy_to_wire(chunk: SegmentChunk, authenticator: Authenticator, chunk_id: ChunkId) -> WireChunk:
    """Return a chunk encoded as bytes that share no memory with it, with tags."""
    header, body = encode_chunk(chunk, authenticator=authenticator, chunk_id=chunk_id)
    return header, raw_bytes(body).copy()


def receive_kept(kept: Iterable[WireChunk], authenticator: Authenticator, segment_id: str) -> tuple[WireChunk, ...]:
    """Check the chunks that a turn's result brought; return them without tags, as copies. Raises WireError."""
    return tuple((remove_tags(header, from_raw(body), authenticator, segment_id), body.copy()) for header, body in kept)


def stamp_send_time(sent: SentChunk, result: TurnResult) -> SentChunk:
    """Return the last chunk of a turn with `final_at` set to now if the turn was traced.

    Tracing delayed the chunk; that time counts as `trace_seconds` and not as exposed time of the transfer.
    """
    return replace(sent, final_at=time.time()) if result.trace_seconds else sent


def execute_turn(
    runner: Runner,
    transport: Transport,
    work: TurnRequest,
    incoming: Sequence[IncomingSegment],
    send: Callable[[SentChunk], None] | None = None,
    *,
    overlaps: bool = False,
    idle_since: float | None = None,
    on_tokens: OnTokens | None = None,
) -> tuple[SentChunk | None, TurnResult]:
    """Execute one turn on the `incoming` segments, which are in the order of `work.segment_order()`.

    With `send`, the segment is sent in chunks, the first one early if `overlaps`. Without, it is returned as one
    chunk whose bytes may still lie in the engine's cache. `idle_since` is when the actor became idle, in seconds of the
    wall clock (default: now). Returns that chunk (or None) and the result with its transfers filled in. Raises what the
    engine, the transport and the wire format raise.
    """
    idle_since = time.time() if idle_since is None else idle_since
    receiver = make_receiver(work, transport, incoming, runner.spec, idle_since=idle_since)
    sender = None if send is None else SegmentSender(transport, send, work, overlaps=overlaps)
    listener = {} if on_tokens is None else {"on_tokens": on_tokens}
    chunk, result = runner.run(work, receiver, outgoing=sender, **listener)
    final_at, begin = time.time(), time.perf_counter()
    kept, whole = tuple(sender.kept) if sender is not None else (), ChunkId(work.segment_id)
    if chunk is not None and work.keeps_memory:
        kept = (copy_to_wire(chunk, transport.authenticator, whole),)
    sent = None if chunk is None else SentChunk(final_at, transport.for_links(work.sent_over).pack(chunk, whole))
    packing_seconds = time.perf_counter() - begin
    phases = replace(
        result.phases,
        wait=receiver.waited_seconds,
        absorb=max(0.0, result.phases.absorb - receiver.waited_seconds),
        # A segment may still lie in the engine's cache: packing is then what copies it out.
        emit=result.phases.emit + packing_seconds,
    )
    spans = cut_waits(result.spans, receiver.waits)
    if sent is not None or kept:
        spans += (PhaseSpan(phase="emit", begin=final_at, end=final_at + packing_seconds),)
    reads = receiver.transfers(work.recomputed)
    return sent, replace(result, reads=reads, phases=phases, spans=spans, kept=kept)
