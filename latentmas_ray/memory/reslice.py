"""Memory of one tensor-parallel degree for a reader of another: KV heads come from the shards that hold them.

Every rank takes what it needs from the ranks that have it, all of them at the same time. Nothing is gathered anywhere,
and a head is copied once: from the bytes that came to where the reader's cache wants it.

Dimensions: L layers, C 2 (key, value), H KV heads, T tokens of all questions one after another, D head dim.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from latentmas_ray.errors import SegmentError
from latentmas_ray.memory.chunk import CodecStats, SegmentChunk, SegmentMeta, have_kv
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
    first, num_sources = pieces[0], pieces[0].outline.spec.shard.of
    for piece in pieces:
        spec.of_shard(piece.outline.spec.shard).check_same(piece.outline.spec)
    ranges = head_ranges(spec.num_model_kv_heads, num_sources, spec.shard)
    found = [piece.outline.spec.shard for piece in pieces]
    if found != [TPRank(heads.source, num_sources) for heads in ranges]:
        raise SegmentError(
            f"{spec.shard} reads {', '.join(str(heads.source) for heads in ranges)} of {num_sources} "
            f"source shards, not {', '.join(map(str, found))}"
        )
    outline = replace(first.outline, spec=spec)
    for piece in pieces[1:]:
        if replace(piece.outline, spec=spec) != outline or _part(piece) != _part(first):
            raise SegmentError("pieces of different shards must be the same part of one segment")
    return first if first.outline.spec == spec else _ReslicedPiece(pieces, ranges, outline)


def gather(pieces: Sequence[SegmentChunk]) -> list[SegmentChunk]:
    """The pieces of one segment, in order, as those of the whole model, from the pieces of all ranks of a divided one:
    in any order among the ranks, and of each rank in its own. Shares their bytes like `reslice`.

    Where they bring no KV, one rank's are enough. Raises SegmentError where a rank or a piece is missing.
    """
    by_rank: dict[int, list[SegmentChunk]] = {}
    for piece in pieces:
        by_rank.setdefault(piece.outline.spec.shard.rank, []).append(piece)
    if not by_rank:
        raise SegmentError("a segment has at least one piece")
    spec = pieces[0].outline.spec.of_shard(WHOLE)
    if not have_kv(pieces):
        return [
            SegmentChunk.without_kv(replace(piece.outline, spec=spec), piece.recompute_inputs)
            for piece in by_rank[min(by_rank)]
        ]
    if len({len(own) for own in by_rank.values()}) > 1:
        raise SegmentError(f"the ranks sent {[len(by_rank[rank]) for rank in sorted(by_rank)]} pieces of one segment")
    return [reslice(same_part, spec) for same_part in zip(*(by_rank[rank] for rank in sorted(by_rank)), strict=True)]


def _part(piece: SegmentChunk) -> tuple[tuple[int, ...], ...]:
    return piece.begins, piece.lengths, piece.recompute_inputs.lengths


class _ReslicedPiece(SegmentChunk):
    """Heads of one or several pieces. They are joined when their bytes are asked for in one buffer."""

    def __init__(self, pieces: Sequence[SegmentChunk], ranges: Sequence[HeadRange], outline: SegmentMeta) -> None:
        first = pieces[0]
        values = {
            "_pieces": tuple(pieces),
            "_ranges": tuple(ranges),
            "outline": outline,
            "begins": first.begins,
            "lengths": first.lengths,
            "recompute_inputs": first.recompute_inputs,
            "loss": _worst([piece.loss for piece in pieces if piece.loss]),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)  # the class is frozen

    _pieces: tuple[SegmentChunk, ...]
    _ranges: tuple[HeadRange, ...]

    @cached_property
    def kv_LCHTD(self) -> Tensor:  # noqa: N802  # a field there, made on demand here
        views = [piece.kv_LCHTD[:, :, heads.first : heads.stop] for piece, heads in self._sources()]
        return torch.cat(views, dim=2).contiguous()

    @property
    def travel_bytes(self) -> int:
        """Bytes of KV as they came here, with those of heads that another rank reads."""
        return sum(piece.travel_bytes for piece in self._pieces)

    def parts_of(self, question: int) -> Iterator[tuple[int, Tensor]]:
        """See `SegmentChunk`: one view for each source."""
        head = 0
        for piece, heads in self._sources():
            yield head, piece.kv_of(question)[:, :, heads.first : heads.stop]
            head += heads.stop - heads.first

    def _sources(self) -> Iterator[tuple[SegmentChunk, HeadRange]]:
        return zip(self._pieces, self._ranges, strict=True)

    def __reduce__(self) -> tuple[Any, ...]:
        return SegmentChunk, (self.outline, self.begins, self.lengths, self.kv_LCHTD, self.recompute_inputs, self.loss)


def _worst(losses: Sequence[CodecStats]) -> CodecStats | None:
    if not losses:
        return None
    return CodecStats(
        losses[0].codec, sum(loss.num_bytes for loss in losses), max(loss.relative_error for loss in losses)
    )
