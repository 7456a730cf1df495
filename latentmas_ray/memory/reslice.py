"""Reslicing: memory of one tensor-parallel degree for a reader of another degree.

Every reading rank receives KV heads from the ranks that hold them, all ranks at the same time. No rank gathers all
heads, and each head is copied once: from the received bytes into the reader's cache.

Dimensions: L layers, C 2 (key, value), H KV heads, T tokens of all questions one after another, D head dim.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from latentmas_ray.errors import SegmentError
from latentmas_ray.memory.chunk import SegmentChunk, have_kv
from latentmas_ray.memory.kv_source import CodecStats, InMemoryKV, KVLayout, KVSource, QuestionKV
from latentmas_ray.memory.spec import WHOLE, KVCacheSpec, TPRank


@dataclass(frozen=True)
class HeadRange:
    """Heads [first, stop) of the heads that source rank `source` holds."""

    source: int
    first: int
    stop: int


def head_ranges(num_heads: int, num_sources: int, reader: TPRank) -> tuple[HeadRange, ...]:
    """Where a reader finds its KV heads, in order, if `num_sources` ranks hold the model's `num_heads` in equal parts.
    Both degrees must divide `num_heads`, as the specs of their shards ensure.
    """
    assert num_heads % num_sources == 0, f"{num_heads} heads at {num_sources} ranks"
    assert num_heads % reader.world_size == 0, f"{num_heads} heads at {reader.world_size} ranks"
    per_source, per_reader = num_heads // num_sources, num_heads // reader.world_size
    begin, end = reader.rank * per_reader, (reader.rank + 1) * per_reader
    return tuple(
        HeadRange(
            source,
            max(begin - source * per_source, 0),
            min(end - source * per_source, per_source),
        )
        for source in range(begin // per_source, -(-end // per_source))
    )


def sources_of(num_heads: int, num_sources: int, reader: TPRank) -> tuple[int, ...]:
    """The ranks that hold a reader's heads, in order: `reslice` takes their chunks."""
    return tuple(heads.source for heads in head_ranges(num_heads, num_sources, reader))


def reslice(chunks: Sequence[SegmentChunk], spec: KVCacheSpec) -> SegmentChunk:
    """Combine the same chunk from several source shards into the chunk of `spec`'s shard.

    `chunks` come from the ranks that `sources_of` names, in that order. Shares their bytes until one buffer is asked
    for. Raises IncompatibleMemoryError for memory of another model, SegmentError if the chunks are not the same part of
    one segment or come from other ranks.
    """
    if not chunks:
        raise SegmentError("resharding needs at least one chunk")
    first, num_sources = chunks[0], chunks[0].meta.spec.shard.world_size
    for chunk in chunks:
        spec.of_shard(chunk.meta.spec.shard).check_same(chunk.meta.spec)
    if first.meta.spec == spec and len(chunks) == 1:
        return first
    ranges = head_ranges(spec.num_model_kv_heads, num_sources, spec.shard)
    found = [chunk.meta.spec.shard for chunk in chunks]
    if found != [TPRank(heads.source, num_sources) for heads in ranges]:
        raise SegmentError(
            f"{spec.shard} reads {', '.join(str(heads.source) for heads in ranges)} of {num_sources} "
            f"source shards, not {', '.join(map(str, found))}"
        )
    meta = replace(first.meta, spec=spec)
    for chunk in chunks[1:]:
        if replace(chunk.meta, spec=spec) != meta or _part(chunk) != _part(first):
            raise SegmentError("pieces of different shards must be the same part of one segment")
    kv = ReslicedKV([chunk.kv for chunk in chunks], ranges, meta.layout(first.begins, first.lengths))
    return SegmentChunk(meta, first.begins, first.lengths, kv, first.recompute_inputs)


def gather(chunks: Sequence[SegmentChunk]) -> list[SegmentChunk]:
    """Combine the chunks of all tensor-parallel ranks into chunks of the whole model, in order.

    Each rank's chunks must be in order; ranks may be interleaved. Shares their bytes like `reslice`. Without KV one
    rank's chunks suffice. Raises SegmentError if a rank or a chunk is missing.
    """
    by_rank: dict[int, list[SegmentChunk]] = {}
    for chunk in chunks:
        by_rank.setdefault(chunk.meta.spec.shard.rank, []).append(chunk)
    if not by_rank:
        raise SegmentError("a segment has at least one piece")
    spec = chunks[0].meta.spec.of_shard(WHOLE)
    if not have_kv(chunks):
        return [
            SegmentChunk.without_kv(replace(chunk.meta, spec=spec), chunk.recompute_inputs)
            for chunk in by_rank[min(by_rank)]
        ]
    if len({len(own) for own in by_rank.values()}) > 1:
        raise SegmentError(f"the ranks sent {[len(by_rank[rank]) for rank in sorted(by_rank)]} chunks of one segment")
    return [reslice(same_part, spec) for same_part in zip(*(by_rank[rank] for rank in sorted(by_rank)), strict=True)]


def _part(chunk: SegmentChunk) -> tuple[tuple[int, ...], ...]:
    return chunk.begins, chunk.lengths, chunk.recompute_inputs.lengths


class ReslicedKV(KVSource):
    """Heads of one or several sources; joined when one buffer is asked for."""

    def __init__(self, sources: Sequence[KVSource], ranges: Sequence[HeadRange], layout: KVLayout) -> None:
        self.layout = layout
        self.codec_stats = _worst([source.codec_stats for source in sources if source.codec_stats])
        self._sources = tuple(zip(sources, ranges, strict=True))
        self._joined: InMemoryKV | None = None

    def buffer(self) -> Tensor:
        if self._joined is None:
            views = [source.tensor()[:, :, heads.first : heads.stop] for source, heads in self._sources]
            kv_LCHTD = torch.cat(views, dim=2).contiguous()
            self._joined = InMemoryKV.of(self.layout.spec, self.layout.lengths, kv_LCHTD)
        return self._joined.buffer()

    @property
    def travel_bytes(self) -> int:
        """Bytes of KV that were received, including heads that another rank reads."""
        return sum(source.travel_bytes for source, _ in self._sources)

    def head_views(self, question: int) -> Iterator[tuple[int, QuestionKV]]:
        """See `KVSource`; one view per source."""
        head = 0
        for source, heads in self._sources:
            yield head, source.view_of(question)[:, :, heads.first : heads.stop]
            head += heads.stop - heads.first


def _worst(stats: Sequence[CodecStats]) -> CodecStats | None:
    if not stats:
        return None
    return CodecStats(stats[0].codec, sum(one.num_bytes for one in stats), max(one.relative_error for one in stats))
