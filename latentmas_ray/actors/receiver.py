"""The working memory that a turn reads: some of it here, some still on its way."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from latentmas_ray.engine.turn import GivenMemory, SegmentRead
from latentmas_ray.memory import KVCacheSpec, Segment, SegmentChunk, SegmentMeta, join
from latentmas_ray.memory.chunk import repeat
from latentmas_ray.memory.reslice import reslice
from latentmas_ray.memory.spec import WHOLE
from latentmas_ray.memory.wire import decode_chunk, from_raw
from latentmas_ray.transport import Transport


@dataclass(frozen=True)
class SentChunk:
    """A packed piece of a segment, and when it was final: from then on its transfer can be exposed."""

    final_at: float  # seconds of the wall clock of the machine that made it
    payload: Any


@dataclass(frozen=True)
class IncomingSegment:
    """What one source hands over: a parcel that is here, and ways to wait for those that come later."""

    source: str
    first: SentChunk
    later: Sequence[Callable[[], SentChunk]] = ()


class SegmentReceiver:
    """Unpacks what has come, waits for the rest, and keeps account of both."""

    def __init__(
        self, transport: Transport, deliveries: Sequence[IncomingSegment], spec: KVCacheSpec, *, idle_since: float
    ) -> None:
        """Unpacks the first parcels. `idle_since` (seconds of the wall clock) is when the reader had nothing else to do
        any more. Raises what `Transport.unpack` raises."""
        self.waited_seconds = 0.0  # for parcels that were not final yet, and for their way here
        self._transport = transport
        self._spec = spec
        self._deliveries = deliveries
        self._busy_seconds = {delivery.source: 0.0 for delivery in deliveries}
        self._recompute_bytes = dict.fromkeys(self._busy_seconds, 0)
        self._kv_bytes = dict.fromkeys(self._busy_seconds, 0)
        self._errors = dict.fromkeys(self._busy_seconds, 0.0)
        self._intervals: list[tuple[str | None, float]] = []  # (whose memory was brought in, until when), in order
        self._final_at = {delivery.source: delivery.first.final_at for delivery in deliveries}
        self._idle_since = idle_since
        self._first = {delivery.source: self._unpack(delivery.source, delivery.first) for delivery in deliveries}
        stats = {source: piece.codec_stats for source, piece in self._first.items()}
        self._codecs = {source: one.codec if one else "none" for source, one in stats.items()}

    def segments(self) -> dict[str, Segment | SegmentMeta]:
        """Each source's segment, or its outline where something of it is still to come."""
        return {source: join([piece]) if piece.is_whole else piece.meta for source, piece in self._first.items()}

    def chunks_of(self, agent: str) -> Iterator[SegmentChunk]:
        """The pieces of one segment, in order."""
        yield from (piece for _, piece in self._hand_out(agent, self._first.pop(agent)))
        delivery = next(delivery for delivery in self._deliveries if delivery.source == agent)
        yield from (piece for _, piece in self._hand_out_later(delivery))

    def chunks(self) -> Iterator[tuple[str, SegmentChunk]]:
        """All pieces with their sources, those that are here first; each is to be absorbed before the next is taken."""
        self._intervals.append((None, time.time()))  # what the reader did since it began was not for memory
        for source in list(self._first):
            yield from self._hand_out(source, self._first.pop(source))  # it is not needed once it is absorbed
        for delivery in self._deliveries:
            yield from self._hand_out_later(delivery)

    def account(self, transport: str, recomputed: Collection[str]) -> tuple[SegmentRead, ...]:
        """What was read, once all pieces have been absorbed; the sources `recomputed` sent theirs without KV."""
        exposed = self._exposed_seconds()
        return tuple(
            SegmentRead(
                source=source,
                num_bytes=self._recompute_bytes[source] if source in recomputed else self._kv_bytes[source],
                handover="recompute" if source in recomputed else "kv",
                codec=codec,
                relative_error=self._errors[source],
                transport=transport,
                seconds=self._busy_seconds[source],
                exposed_seconds=exposed[source],
            )
            for source, codec in self._codecs.items()
        )

    def _exposed_seconds(self) -> dict[str, float]:
        """Of each source: how long it kept this turn waiting after all memory was final and the reader was idle.

        Final is told by the clocks of the sources' machines, so between machines it is as exact as they agree.
        """
        exposed = dict.fromkeys(self._final_at, 0.0)
        now = max([self._idle_since, *self._final_at.values()])
        for source, end in self._intervals:
            if source is not None:
                exposed[source] += max(0.0, end - now)
            now = max(now, end)
        return exposed

    def _hand_out_later(self, delivery: IncomingSegment) -> Iterator[tuple[str, SegmentChunk]]:
        for wait in delivery.later:
            begin = time.time()
            chunk = wait()
            self.waited_seconds += time.time() - begin
            self._final_at[delivery.source] = chunk.final_at
            yield from self._hand_out(delivery.source, self._unpack(delivery.source, chunk))

    def _unpack(self, source: str, chunk: SentChunk) -> SegmentChunk:
        begin = time.time()
        piece = self._transport.unpack(chunk.payload, expected=self._spec)
        self._recompute_bytes[source] += sum(piece.recompute_inputs.bytes_per_question)
        self._kv_bytes[source] += piece.travel_bytes
        self._errors[source] = max(self._errors[source], piece.codec_stats.relative_error if piece.codec_stats else 0.0)
        self._note(source, begin)
        return piece

    def _hand_out(self, source: str, piece: SegmentChunk) -> Iterator[tuple[str, SegmentChunk]]:
        begin = time.time()
        yield source, piece
        self._note(source, begin)

    def _note(self, source: str, begin: float) -> None:
        end = time.time()
        self._busy_seconds[source] += end - begin
        self._intervals.append((source, end))


class GivenMemoryReceiver:
    """Memory that comes with the work: nothing is on its way, and no transport is asked."""

    waited_seconds = 0.0

    def __init__(self, given: GivenMemory, num_questions: int, spec: KVCacheSpec) -> None:
        """Decodes what is given, for each of `num_questions`. Raises WireError, IncompatibleMemoryError."""
        whole = spec.of_shard(WHOLE)
        self._pieces = {
            name: reslice([repeat(decode_chunk(header, from_raw(body), expected=whole), num_questions)], spec)
            for name, (header, body) in given.segments.items()
        }

    def segments(self) -> dict[str, Segment | SegmentMeta]:
        """Each agent's segment, or its outline where that has no KV."""
        return {name: join([piece]) if piece.is_whole else piece.meta for name, piece in self._pieces.items()}

    def chunks(self) -> Iterator[tuple[str, SegmentChunk]]:
        """One piece of every agent."""
        return iter(self._pieces.items())

    def chunks_of(self, agent: str) -> Iterator[SegmentChunk]:
        """The only piece of one agent's segment."""
        yield self._pieces[agent]

    def account(self, transport: str, recomputed: Collection[str]) -> tuple[SegmentRead, ...]:
        """Nothing was transferred."""
        return ()


def by_source(chunks: Mapping[str, SentChunk]) -> list[IncomingSegment]:
    """Deliveries of which nothing is to come later."""
    return [IncomingSegment(source, chunk) for source, chunk in chunks.items()]
