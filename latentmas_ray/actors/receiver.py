"""Receives the segments that a turn reads."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from latentmas_ray.authentication import Authenticator, ChunkId
from latentmas_ray.engine.timing.exposed_time import ExposedTimer
from latentmas_ray.engine.timing.phase_spans import Wait
from latentmas_ray.engine.turn import GivenMemory, ReadAs, SegmentRead, TurnRequest
from latentmas_ray.memory import KVCacheSpec, Segment, SegmentChunk, SegmentMeta, join
from latentmas_ray.memory.chunk import close, repeat
from latentmas_ray.memory.reslice import reslice
from latentmas_ray.memory.spec import WHOLE
from latentmas_ray.memory.wire import decode_chunk, from_raw
from latentmas_ray.transport import Transport


@dataclass(frozen=True)
class SentChunk:
    """A packed chunk of a segment, and when it was final: its transfer can be exposed from then on."""

    final_at: float  # seconds of the wall clock of the producer's machine
    payload: Any


@dataclass(frozen=True)
class IncomingSegment:
    """One source's segment: its first chunk, and a function per later chunk that waits for it.

    `segment_id` is the name that the segment must have; None if any will do.
    """

    source: str
    first: SentChunk
    later: Sequence[Callable[[], SentChunk]] = ()
    segment_id: str | None = None

    def chunk_id(self, index: int) -> ChunkId | None:
        """The name that a chunk of it must have."""
        return None if self.segment_id is None else ChunkId(self.segment_id, index)


class SegmentReceiver:
    """Unpacks the chunks that have arrived, waits for the others, and measures both."""

    def __init__(
        self,
        transport: Transport,
        incoming: Sequence[IncomingSegment],
        spec: KVCacheSpec,
        *,
        idle_since: float,
        busy_within: Callable[[float, float], float] | None = None,
        translated: Collection[str] = (),
    ) -> None:
        """Unpack the first chunks. `idle_since` (seconds of the wall clock) is when the reader became idle;
        `busy_within` is that of `ExposedTimer`. Of the sources in `translated`, which have another model, only the
        recompute inputs are taken.

        Raises what `Transport.unpack` raises.
        """
        self.waits: list[Wait] = []  # for chunks that were not final yet, and for their transfer
        self._transport = transport
        self._spec = spec
        self._incoming = incoming
        self._translated = frozenset(translated)
        final_at = {segment.source: segment.first.final_at for segment in incoming}
        self._timer = ExposedTimer(final_at, idle_since=idle_since, busy_within=busy_within)
        self._recompute_bytes = dict.fromkeys(final_at, 0)
        self._kv_bytes = dict.fromkeys(final_at, 0)
        self._errors = dict.fromkeys(final_at, 0.0)
        self._first = {segment.source: self._unpack(segment, 0, segment.first) for segment in incoming}
        self._received: dict[str, list[SegmentChunk]] = {}  # later chunks that were received before they are absorbed
        self._names = {segment.source: transport.name_of(segment.first.payload) for segment in incoming}
        stats = {source: chunk.codec_stats for source, chunk in self._first.items()}
        self._codecs = {source: one.codec if one else "none" for source, one in stats.items()}

    @property
    def waited_seconds(self) -> float:
        """How long it has waited."""
        return sum(end - begin for begin, end in self.waits)

    def segments(self) -> dict[str, Segment | SegmentMeta]:
        """Return each source's segment, or only its meta data while chunks of it are missing. Waits for the last chunk
        of a segment whose turn may end early, because only that has its lengths; until then the first is in transit."""
        for segment in self._incoming:
            self._close(segment)
        return {source: join([chunk]) if chunk.is_whole else chunk.meta for source, chunk in self._first.items()}

    def chunks_of(self, agent: str) -> Iterator[SegmentChunk]:
        """Yield the chunks of one segment, in order."""
        yield from (chunk for _, chunk in self._yield_timed(agent, self._first.pop(agent)))
        segment = next(segment for segment in self._incoming if segment.source == agent)
        yield from (chunk for _, chunk in self._yield_later(segment))

    def chunks(self) -> Iterator[tuple[str, SegmentChunk]]:
        """Yield all chunks with their sources, arrived ones first. The reader absorbs each before it takes the next."""
        self._timer.record_other_work()
        for source in list(self._first):
            yield from self._yield_timed(source, self._first.pop(source))  # drops it: it is not needed once absorbed
        for segment in self._incoming:
            yield from self._yield_later(segment)

    def transfers(self, recomputed: Collection[str]) -> tuple[SegmentRead, ...]:
        """Return one record per segment, once all chunks are absorbed. From the sources in `recomputed` no KV was
        taken."""
        times = self._timer.times()
        modes: dict[str, ReadAs] = dict.fromkeys(recomputed, "recompute")
        modes.update(dict.fromkeys(self._translated, "translated"))
        return tuple(
            SegmentRead(
                source=source,
                num_bytes=self._recompute_bytes[source] if source in recomputed else self._kv_bytes[source],
                transfer_mode=modes.get(source, "kv"),
                codec=codec,
                relative_error=self._errors[source],
                transport=self._names[source],
                seconds=times[source].seconds,
                exposed_seconds=times[source].exposed_seconds,
            )
            for source, codec in self._codecs.items()
        )

    def _close(self, segment: IncomingSegment) -> None:
        """Receive all chunks of a segment whose first one does not have its lengths."""
        first = self._first.get(segment.source)
        if first is not None and first.meta.is_open:
            chunks = close([first, *self._receive_later(segment)])
            self._first[segment.source], self._received[segment.source] = chunks[0], chunks[1:]

    def _receive_later(self, segment: IncomingSegment) -> Iterator[SegmentChunk]:
        """Wait for each later chunk."""
        for index, wait in enumerate(segment.later, 1):
            begin = time.time()
            sent = wait()
            self.waits.append((begin, time.time()))
            self._timer.note_final(segment.source, sent.final_at)
            yield self._unpack(segment, index, sent)

    def _yield_later(self, segment: IncomingSegment) -> Iterator[tuple[str, SegmentChunk]]:
        received = self._received.pop(segment.source, None)
        for chunk in self._receive_later(segment) if received is None else received:
            yield from self._yield_timed(segment.source, chunk)

    def _unpack(self, segment: IncomingSegment, index: int, sent: SentChunk) -> SegmentChunk:
        begin, source = time.time(), segment.source
        if source in self._translated:
            chunk = self._transport.unpack_inputs(sent.payload, chunk_id=segment.chunk_id(index))
        else:
            chunk = self._transport.unpack(sent.payload, expected=self._spec, chunk_id=segment.chunk_id(index))
        self._recompute_bytes[source] += sum(chunk.recompute_inputs.bytes_per_question)
        self._kv_bytes[source] += chunk.travel_bytes
        self._errors[source] = max(self._errors[source], chunk.codec_stats.relative_error if chunk.codec_stats else 0.0)
        self._timer.record(source, begin)
        return chunk

    def _yield_timed(self, source: str, chunk: SegmentChunk) -> Iterator[tuple[str, SegmentChunk]]:
        begin = time.time()
        yield source, chunk
        self._timer.record(source, begin)


class GivenMemoryReceiver:
    """Receives memory that comes with the turn's request: nothing is waited for, and no transport is used.

    What came from another process has a name and tags.
    """

    waited_seconds = 0.0
    waits: Sequence[Wait] = ()

    def __init__(self, given: GivenMemory, num_questions: int, spec: KVCacheSpec, authenticator: Authenticator) -> None:
        """Decode the memory, repeated for each of `num_questions`. Raises WireError, IncompatibleMemoryError."""
        whole, is_sent = spec.of_shard(WHOLE), bool(given.segment_id)
        chunks = {
            name: decode_chunk(
                header,
                from_raw(body),
                expected=whole,
                authenticator=authenticator if is_sent else None,
                chunk_id=given.chunk_id(name) if is_sent else None,
            )
            for name, (header, body) in given.segments.items()
        }
        self._chunks = {name: reslice([repeat(chunk, num_questions)], spec) for name, chunk in chunks.items()}

    def segments(self) -> dict[str, Segment | SegmentMeta]:
        """Return each agent's segment, or only its meta data if it has no KV."""
        return {name: join([chunk]) if chunk.is_whole else chunk.meta for name, chunk in self._chunks.items()}

    def chunks(self) -> Iterator[tuple[str, SegmentChunk]]:
        """Yield one chunk per agent."""
        return iter(self._chunks.items())

    def chunks_of(self, agent: str) -> Iterator[SegmentChunk]:
        """Yield the only chunk of one agent's segment."""
        yield self._chunks[agent]

    def transfers(self, recomputed: Collection[str]) -> tuple[SegmentRead, ...]:
        """Return no records: nothing was transferred."""
        return ()


class _ReceiverAfterGiven:
    """Receives memory that comes with the turn's request, and the segments of other turns after it."""

    def __init__(self, given: GivenMemoryReceiver, others: SegmentReceiver) -> None:
        self._given, self._others = given, others
        self._agents_given = given.segments().keys()

    @property
    def waited_seconds(self) -> float:
        """How long it has waited."""
        return self._others.waited_seconds

    @property
    def waits(self) -> Sequence[Wait]:
        """When it has waited."""
        return self._others.waits

    def segments(self) -> dict[str, Segment | SegmentMeta]:
        """Return each agent's segment; see `SegmentReceiver.segments`."""
        return {**self._given.segments(), **self._others.segments()}

    def chunks(self) -> Iterator[tuple[str, SegmentChunk]]:
        """Yield all chunks with their agents."""
        yield from self._given.chunks()
        yield from self._others.chunks()

    def chunks_of(self, agent: str) -> Iterator[SegmentChunk]:
        """Yield the chunks of one segment, in order."""
        return (self._given if agent in self._agents_given else self._others).chunks_of(agent)

    def transfers(self, recomputed: Collection[str]) -> tuple[SegmentRead, ...]:
        """Return one record per segment of another turn."""
        return self._others.transfers(recomputed)


def make_receiver(
    work: TurnRequest,
    transport: Transport,
    incoming: Sequence[IncomingSegment],
    spec: KVCacheSpec,
    *,
    idle_since: float,
    busy_within: Callable[[float, float], float] | None = None,
) -> SegmentReceiver | GivenMemoryReceiver | _ReceiverAfterGiven:
    """Return what receives the memory that a turn reads. Raises what the receivers raise."""
    given = None
    if work.given is not None:
        given = GivenMemoryReceiver(work.given, len(work.prompts), spec, transport.authenticator)
        if not incoming:
            return given
    others = SegmentReceiver(
        transport, incoming, spec, idle_since=idle_since, busy_within=busy_within, translated=work.translated
    )
    return others if given is None else _ReceiverAfterGiven(given, others)


def complete_segments(chunks: Mapping[str, SentChunk]) -> list[IncomingSegment]:
    """Return segments that consist of one chunk each."""
    return [IncomingSegment(source, chunk) for source, chunk in chunks.items()]
