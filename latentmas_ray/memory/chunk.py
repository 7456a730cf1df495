"""Chunks of a segment that are sent separately, so that the first is sent before the last is computed.

Most bytes of a segment come from its agent's prompt and are final before the first latent step: they are sent as a
chunk while the agent thinks. Every chunk carries the meta data of the whole segment, so the first chunk already tells a
reader the position of every token and how many are still to come. Where a question thinks until its thoughts have
converged, the first chunk can only say how many there are at most (`SegmentMeta.is_open`), and the last says how many
there are.

Dimensions: L layers, H KV heads, T tokens of all questions one after another, D head dim.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from latentmas_ray.errors import SegmentError
from latentmas_ray.memory.kv_source import CodecStats, InMemoryKV, KVSource, QuestionKV, concatenate_kv
from latentmas_ray.memory.layer_spec import count_kept, list_kept
from latentmas_ray.memory.segment import RecomputeInputs, Segment, SegmentMeta, check_parts


@dataclass(frozen=True)
class SegmentChunk:
    """Tokens [begins[q], begins[q] + lengths[q]) of each question's kept tokens of one segment; never mutated.

    `kv` holds their bytes. `recompute_inputs` holds the turn's inputs that follow those of the previous chunks; all
    chunks together hold all inputs of the turn, kept or not. Raises SegmentError if the fields contradict each other.
    """

    meta: SegmentMeta
    begins: tuple[int, ...]
    lengths: tuple[int, ...]
    kv: KVSource
    recompute_inputs: RecomputeInputs

    def __post_init__(self) -> None:
        meta = self.meta
        counts = (len(self.begins), len(self.lengths), len(self.recompute_inputs.lengths))
        if set(counts) != {meta.num_questions}:
            raise SegmentError(f"a chunk of {counts} questions, its segment has {meta.num_questions}")
        for begin, length, total in zip(self.begins, self.lengths, meta.lengths, strict=True):
            if min(begin, length) < 0 or begin + length > total:
                raise SegmentError(f"tokens {begin}..{begin + length} of a segment's {total}")
        check_parts(meta, meta.layout(self.begins, self.lengths), self.kv, self.recompute_inputs)

    @classmethod
    def from_tensor(
        cls,
        meta: SegmentMeta,
        begins: tuple[int, ...],
        lengths: tuple[int, ...],
        kv_LCHTD: Tensor,
        recompute_inputs: RecomputeInputs,
    ) -> "SegmentChunk":
        """The chunk whose KV is [L, 2, H, T, D], contiguous, of those of its tokens that the layers keep; shares its
        bytes. Raises SegmentError."""
        kept = meta.layout(begins, lengths).lengths
        return cls(meta, begins, lengths, InMemoryKV.of(meta.spec, kept, kv_LCHTD), recompute_inputs)

    @classmethod
    def whole(cls, segment: Segment) -> "SegmentChunk":
        """The one chunk that holds all of a segment; shares its bytes."""
        return cls(segment.meta, (0,) * segment.num_questions, segment.lengths, segment.kv, segment.recompute_inputs)

    @classmethod
    def without_kv(cls, meta: SegmentMeta, recompute_inputs: RecomputeInputs) -> "SegmentChunk":
        """A chunk of recompute inputs alone: its reader computes the KV."""
        nothing = (0,) * meta.num_questions
        return cls(meta, nothing, nothing, concatenate_kv(meta.layout(nothing, nothing), []), recompute_inputs)

    @property
    def kv_LCHTD(self) -> Tensor:  # noqa: N802  # it carries its dimensions like every tensor
        """The KV [L, 2, H, T, D], contiguous. The first call may copy, decode or join it."""
        return self.kv.tensor()

    @property
    def codec_stats(self) -> CodecStats | None:
        """The loss through a codec in transit; None without a lossy codec."""
        return self.kv.codec_stats

    @property
    def num_bytes(self) -> int:
        """Bytes of KV (recompute inputs are not counted)."""
        return self.kv.layout.num_bytes

    @property
    def travel_bytes(self) -> int:
        """Bytes of KV as they were received."""
        return self.kv.travel_bytes

    @property
    def is_whole(self) -> bool:
        """Whether this is the only chunk of its segment."""
        return (
            not self.meta.is_open
            and self.lengths == self.meta.lengths
            and self.recompute_inputs.lengths == self.meta.turn_lengths
        )

    def kv_of(self, question: int) -> Tensor:
        """A view of one question's KV [L, 2, H, T, D], of the tokens that the layers keep."""
        return self.kv.view_of(question)

    def num_kept_before(self, question: int) -> int:
        """How many of the segment's tokens before the first one of this chunk are kept: where it begins in a cache."""
        if self.meta.kept is None:
            return self.begins[question]
        (count,) = count_kept((self.meta.kept[0][question],), [(0, self.begins[question])])
        return count

    def positions_of(self, question: int, shift: int) -> list[Tensor] | None:
        """Where a question's tokens are after a shift, int64 [T]: once if all layers keep the same, else for each
        layer. None if no layer has a window: then only their order counts."""
        meta, begin, length = self.meta, self.begins[question], self.lengths[question]
        if not meta.spec.has_windows:
            return None
        first = meta.starts[question] + shift
        if meta.kept is None:
            return [torch.arange(first + begin, first + begin + length)]
        found: dict[int, Tensor] = {}
        for layer in meta.kept:
            if id(layer) not in found:
                found[id(layer)] = torch.tensor(list_kept(layer[question], begin, length), dtype=torch.int64) + first
        return [found[id(layer)] for layer in meta.kept] if len(found) > 1 else list(found.values())

    def head_views(self, question: int) -> Iterator[tuple[int, QuestionKV]]:
        """See `KVSource`."""
        return self.kv.head_views(question)


def close(chunks: Sequence[SegmentChunk]) -> list[SegmentChunk]:
    """Give all chunks of a segment, in order, the meta data of the last one. If the turn could end early, only that has
    the true lengths. Shares their bytes. Raises SegmentError if the last chunk is missing or is another segment's."""
    if not chunks or not chunks[0].meta.is_open:
        return list(chunks)
    most, meta = chunks[0].meta, chunks[-1].meta
    if meta.is_open:
        raise SegmentError("the last chunk of a segment is missing: its lengths are not known yet")
    bounded = zip((*meta.lengths, *meta.turn_lengths), (*most.lengths, *most.turn_lengths), strict=True)
    is_same = (meta.spec, meta.turn_starts, meta.offsets) == (most.spec, most.turn_starts, most.offsets)
    if not is_same or any(length > bound for length, bound in bounded):
        raise SegmentError("pieces of different segments")
    return [replace(chunk, meta=meta) for chunk in chunks]


def join(chunks: Sequence[SegmentChunk]) -> Segment:
    """Join all chunks of a segment, in order. Shares the bytes of a single chunk, copies those of several.

    Raises SegmentError if they are of different segments, or if one is missing.
    """
    if not chunks:
        raise SegmentError("a segment has at least one piece")
    chunks = close(chunks)
    meta = chunks[0].meta
    questions = range(meta.num_questions)
    if any(chunk.meta != meta for chunk in chunks):
        raise SegmentError("pieces of different segments")
    for question in questions:
        edges = [0, *(chunk.begins[question] + chunk.lengths[question] for chunk in chunks)]
        begins = [chunk.begins[question] for chunk in chunks]
        inputs = sum(chunk.recompute_inputs.lengths[question] for chunk in chunks)
        if begins != edges[:-1] or edges[-1] != meta.lengths[question] or inputs != meta.turn_lengths[question]:
            raise SegmentError(
                f"question {question}: chunks end at tokens {edges[1:]} of {meta.lengths[question]} "
                f"and at input {inputs} of {meta.turn_lengths[question]}"
            )
    if len(chunks) == 1:
        return Segment(meta, chunks[0].kv, chunks[0].recompute_inputs)
    kv = concatenate_kv(meta.layout(), [(chunk.kv, q) for q in questions for chunk in chunks])
    return Segment(meta, kv, join_recompute_inputs([chunk.recompute_inputs for chunk in chunks], meta.turn_lengths))


def have_kv(chunks: Sequence[SegmentChunk]) -> bool:
    """Whether these chunks of one segment hold its KV, not only its recompute inputs."""
    return any(sum(chunk.lengths) for chunk in chunks) or not any(sum(chunk.meta.lengths) for chunk in chunks)


def repeat(chunk: SegmentChunk, num_questions: int) -> SegmentChunk:
    """Repeat a chunk of one question for `num_questions` questions; copies its KV for each.

    Raises SegmentError for a chunk of several questions.
    """
    if chunk.meta.num_questions != 1:
        raise SegmentError(f"only memory of one question can be repeated, not of {chunk.meta.num_questions}")
    once = [0] * num_questions
    meta, begins, lengths = chunk.meta.take(once), chunk.begins * num_questions, chunk.lengths * num_questions
    kv = concatenate_kv(meta.layout(begins, lengths), [(chunk.kv, question) for question in once], chunk.codec_stats)
    return SegmentChunk(meta, begins, lengths, kv, chunk.recompute_inputs.take(once))


def join_recompute_inputs(inputs: Sequence[RecomputeInputs], lengths: tuple[int, ...]) -> RecomputeInputs:
    """Join the recompute inputs of consecutive parts of the same turns. Raises SegmentError where the counts do not add
    up to `lengths`."""
    ids = [recompute_inputs.token_ids_T.split(list(recompute_inputs.lengths)) for recompute_inputs in inputs]
    latents = [
        recompute_inputs.latents_NE.split(list(recompute_inputs.latents_per_question())) for recompute_inputs in inputs
    ]
    questions = range(len(lengths))
    return RecomputeInputs(
        torch.cat([part[question] for question in questions for part in ids]),
        torch.cat([part[question] for question in questions for part in latents]),
        lengths,
    )
