"""Parts of a segment that travel by themselves, so that the first can leave before the last is computed.

An agent's prompt makes most of the bytes of its segment, and they are final before its first latent step: they leave as
a chunk of their own while it thinks. Every chunk carries the meta data of the whole, so a reader knows where everything
belongs, and how much is still to come, from the first chunk on.

Dimensions: L layers, H KV heads, T tokens of all questions one after another, D head dim.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from latentmas_ray.errors import SegmentError
from latentmas_ray.memory.kv_source import CodecStats, InMemoryKV, KVSource, concatenate_kv
from latentmas_ray.memory.segment import RecomputeInputs, Segment, SegmentMeta, check_parts


@dataclass(frozen=True)
class SegmentChunk:
    """Tokens [begins[q], begins[q] + lengths[q]) of each question's kept tokens of one segment; never mutated.

    `kv` is where their bytes are. `recompute_inputs` holds the turn's inputs that follow those of the chunks before;
    together they are the whole turn's, kept or not. Raises SegmentError if the parts contradict each other.
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
        """The chunk whose KV is [L, 2, H, sum(lengths), D], contiguous; shares its bytes. Raises SegmentError."""
        return cls(meta, begins, lengths, InMemoryKV.of(meta.spec, lengths, kv_LCHTD), recompute_inputs)

    @classmethod
    def whole(cls, segment: Segment) -> "SegmentChunk":
        """All of a segment; shares its bytes, wherever they are."""
        return cls(segment.meta, (0,) * segment.num_questions, segment.lengths, segment.kv, segment.recompute_inputs)

    @classmethod
    def without_kv(cls, meta: SegmentMeta, recompute_inputs: RecomputeInputs) -> "SegmentChunk":
        """Inputs of a turn alone, all or those that follow the chunks before: whoever reads it computes the KV."""
        nothing = (0,) * meta.num_questions
        return cls(meta, nothing, nothing, concatenate_kv(meta.layout(nothing, nothing), []), recompute_inputs)

    @property
    def kv_LCHTD(self) -> Tensor:  # noqa: N802  # it carries its dimensions like every tensor
        """The KV [L, 2, H, T, D], contiguous. May bring it from where it is, the first time."""
        return self.kv.tensor()

    @property
    def codec_stats(self) -> CodecStats | None:
        """What a lossy codec did to it on its way here."""
        return self.kv.codec_stats

    @property
    def num_bytes(self) -> int:
        """Bytes of KV (the recompute inputs is not counted)."""
        return self.kv.layout.num_bytes

    @property
    def travel_bytes(self) -> int:
        """Bytes of KV as they came here."""
        return self.kv.travel_bytes

    @property
    def is_whole(self) -> bool:
        """Whether this is the only chunk of its segment."""
        return self.lengths == self.meta.lengths and self.recompute_inputs.lengths == self.meta.turn_lengths

    def kv_of(self, question: int) -> Tensor:
        """A view of one question's KV [L, 2, H, lengths[question], D]."""
        return self.kv.view_of(question)

    def head_views(self, question: int) -> Iterator[tuple[int, Tensor]]:
        """See `KVSource`."""
        return self.kv.head_views(question)


def join(pieces: Sequence[SegmentChunk]) -> Segment:
    """The segment that these pieces, in their order, are all of. Shares the bytes of a single one, else copies them.

    Raises SegmentError for pieces that are not of one segment, or that leave something out.
    """
    if not pieces:
        raise SegmentError("a segment has at least one piece")
    meta = pieces[0].meta
    questions = range(meta.num_questions)
    if any(piece.meta != meta for piece in pieces):
        raise SegmentError("pieces of different segments")
    for question in questions:
        edges = [0, *(piece.begins[question] + piece.lengths[question] for piece in pieces)]
        begins = [piece.begins[question] for piece in pieces]
        inputs = sum(piece.recompute_inputs.lengths[question] for piece in pieces)
        if begins != edges[:-1] or edges[-1] != meta.lengths[question] or inputs != meta.turn_lengths[question]:
            raise SegmentError(
                f"question {question}: pieces end at tokens {edges[1:]} of {meta.lengths[question]} "
                f"and at input {inputs} of {meta.turn_lengths[question]}"
            )
    if len(pieces) == 1:
        return Segment(meta, pieces[0].kv, pieces[0].recompute_inputs)
    kv = concatenate_kv(meta.layout(), [(piece.kv, q) for q in questions for piece in pieces])
    return Segment(meta, kv, join_recompute_inputs([piece.recompute_inputs for piece in pieces], meta.turn_lengths))


def have_kv(pieces: Sequence[SegmentChunk]) -> bool:
    """Whether all these pieces of one segment bring its KV, and not its recompute inputs alone."""
    return any(sum(piece.lengths) for piece in pieces) or not any(sum(piece.meta.lengths) for piece in pieces)


def repeat(piece: SegmentChunk, num_questions: int) -> SegmentChunk:
    """A piece of one question as that of `num_questions` that all have the same memory; copies its KV for each.

    Raises SegmentError for a piece of several questions.
    """
    if piece.meta.num_questions != 1:
        raise SegmentError(f"only memory of one question can be repeated, not of {piece.meta.num_questions}")
    once = [0] * num_questions
    meta, begins, lengths = piece.meta.take(once), piece.begins * num_questions, piece.lengths * num_questions
    kv = concatenate_kv(meta.layout(begins, lengths), [(piece.kv, question) for question in once], piece.codec_stats)
    return SegmentChunk(meta, begins, lengths, kv, piece.recompute_inputs.take(once))


def join_recompute_inputs(inputs: Sequence[RecomputeInputs], lengths: tuple[int, ...]) -> RecomputeInputs:
    """Recipes of consecutive parts of the same turns as one. Raises SegmentError where they do not add up."""
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
