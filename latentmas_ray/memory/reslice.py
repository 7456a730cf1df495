"""Memory of one tensor-parallel degree for a reader of another: KV heads come from the shards that hold them.

Every rank takes what it needs from the ranks that have it, all of them at the same time. Nothing is gathered anywhere,
and a head is copied once: from the bytes that came to where the reader's cache wants it.

Dimensions: L layers, C 2 (key, value), H KV heads, T tokens of all questions one after another, D head dim.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from latentmas_ray.errors import SegmentError
from latentmas_ray.memory.chunk import SegmentChunk, have_kv
from latentmas_ray.memory.kv_source import CodecStats, InMemoryKV, KVLayout, KVSource
from latentmas_ray.memory.spec import WHOLE, KVCacheSpec, TPRank


@dataclass(frozen=True)
class HeadRange:
    """Heads [first, stop) of those that source rank `source` holds."""

    source: int
    first: int
    stop: int


def head_ranges(num_heads: int, num_sources: int, reader: TPRank) -> tuple[HeadRange, ...]:
    """Where a reader finds its KV heads, in their order, if `num_sources` ranks hold the model's `num_heads` in equal
    parts. Both degrees divide `num_heads`: a spec of such a shard would not be there otherwise.
    """
    assert num_heads % num_sources == 0, f"{num_heads} heads at {num_sources} ranks"
    assert num_heads % reader.of == 0, f"{num_heads} heads at {reader.of} ranks"
    per_source, per_reader = num_heads // num_sources, num_heads // reader.of
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
    """The ranks that hold a reader's heads, in order: those whose pieces `reslice` wants."""
    return tuple(heads.source for heads in head_ranges(num_heads, num_sources, reader))


def reslice(pieces: Sequence[SegmentChunk], spec: KVCacheSpec) -> SegmentChunk:
    """The same part of one segment, from the shards that `sources_of` names and in that order, as the shard of `spec`
    holds it. Shares the bytes of `pieces` until somebody asks for them in one buffer.

    Raises IncompatibleMemoryError for memory of another model, SegmentError for pieces that are not of one part of one
    segment, or of other shards.
    """
    if not pieces:
        raise SegmentError("a piece for a shard is made of at least one")
    first, num_sources = pieces[0], pieces[0].meta.spec.shard.of
    for piece in pieces:
        spec.of_shard(piece.meta.spec.shard).check_same(piece.meta.spec)
    if first.meta.spec == spec and len(pieces) == 1:
        return first
    ranges = head_ranges(spec.num_model_kv_heads, num_sources, spec.shard)
    found = [piece.meta.spec.shard for piece in pieces]
    if found != [TPRank(heads.source, num_sources) for heads in ranges]:
        raise SegmentError(
            f"{spec.shard} reads {', '.join(str(heads.source) for heads in ranges)} of {num_sources} "
            f"source shards, not {', '.join(map(str, found))}"
        )
    meta = replace(first.meta, spec=spec)
    for piece in pieces[1:]:
        if replace(piece.meta, spec=spec) != meta or _part(piece) != _part(first):
            raise SegmentError("pieces of different shards must be the same part of one segment")
    kv = ReslicedKV([piece.kv for piece in pieces], ranges, meta.layout(first.begins, first.lengths))
    return SegmentChunk(meta, first.begins, first.lengths, kv, first.recompute_inputs)


def gather(pieces: Sequence[SegmentChunk]) -> list[SegmentChunk]:
    """The pieces of one segment, in order, as those of the whole model, from the pieces of all ranks of a divided one:
    in any order among the ranks, and of each rank in its own. Shares their bytes like `reslice`.

    Where they bring no KV, one rank's are enough. Raises SegmentError where a rank or a piece is missing.
    """
    by_rank: dict[int, list[SegmentChunk]] = {}
    for piece in pieces:
        by_rank.setdefault(piece.meta.spec.shard.rank, []).append(piece)
    if not by_rank:
        raise SegmentError("a segment has at least one piece")
    spec = pieces[0].meta.spec.of_shard(WHOLE)
    if not have_kv(pieces):
        return [
            SegmentChunk.without_kv(replace(piece.meta, spec=spec), piece.recompute_inputs)
            for piece in by_rank[min(by_rank)]
        ]
    if len({len(own) for own in by_rank.values()}) > 1:
        raise SegmentError(f"the ranks sent {[len(by_rank[rank]) for rank in sorted(by_rank)]} pieces of one segment")
    return [reslice(same_part, spec) for same_part in zip(*(by_rank[rank] for rank in sorted(by_rank)), strict=True)]


def _part(piece: SegmentChunk) -> tuple[tuple[int, ...], ...]:
    return piece.begins, piece.lengths, piece.recompute_inputs.lengths


class ReslicedKV(KVSource):
    """Heads of one or several sources. They are joined when their bytes are asked for in one buffer."""

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
        """Bytes of KV as they came here, with those of heads that another rank reads."""
        return sum(source.travel_bytes for source, _ in self._sources)

    def head_views(self, question: int) -> Iterator[tuple[int, Tensor]]:
        """See `KVSource`: one view for each source."""
        head = 0
        for source, heads in self._sources:
            yield head, source.view_of(question)[:, :, heads.first : heads.stop]
            head += heads.stop - heads.first


def _worst(stats: Sequence[CodecStats]) -> CodecStats | None:
    if not stats:
        return None
    return CodecStats(stats[0].codec, sum(one.num_bytes for one in stats), max(one.relative_error for one in stats))
