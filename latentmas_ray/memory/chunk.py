"""Parts of a segment that travel by themselves, so that the first can leave before the last is computed.

An agent's prompt makes most of the bytes of its segment, and they are final before its first latent step: they leave as
a piece of their own while it thinks. Every piece carries the outline of the whole, so a reader knows where everything
belongs, and how much is still to come, from the first piece on.

Dimensions: L layers, C 2 (key, value), H KV heads, T tokens of all questions one after another, D head dim.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from latentmas_ray.config import CodecName
from latentmas_ray.errors import SegmentError
from latentmas_ray.memory.segment import RecomputeInputs, Segment
from latentmas_ray.memory.spec import KVCacheSpec


@dataclass(frozen=True)
class SegmentMeta:
    """A segment without its bytes: whose model's, where each question's tokens stand, and how many they are.

    Question q's turn begins at position `turn_starts[q]` and takes `turn_lengths[q]` positions; the `lengths[q]` tokens
    that are kept begin with number `offsets[q]` of the turn. Raises SegmentError if the parts contradict each other.
    """

    spec: KVCacheSpec
    lengths: tuple[int, ...]
    turn_starts: tuple[int, ...]
    offsets: tuple[int, ...]
    turn_lengths: tuple[int, ...]

    def __post_init__(self) -> None:
        per_question = (self.lengths, self.turn_starts, self.offsets, self.turn_lengths)
        if len({len(values) for values in per_question}) > 1:
            raise SegmentError(f"an outline of {[len(values) for values in per_question]} questions")
        for length, start, offset, turn in zip(*per_question, strict=True):
            if min(length, start, offset) < 0 or offset + length > turn:
                raise SegmentError(f"tokens {offset}..{offset + length} of a turn of {turn} at position {start}")

    @classmethod
    def of(cls, segment: Segment) -> "SegmentMeta":
        """The outline of a segment that is there."""
        return cls(
            segment.spec, segment.lengths, segment.turn_starts, segment.offsets, segment.recompute_inputs.lengths
        )

    @property
    def num_questions(self) -> int:
        return len(self.lengths)

    @property
    def num_bytes(self) -> int:
        """Bytes of KV of the whole segment."""
        return sum(self.lengths) * self.spec.bytes_per_token

    @property
    def bytes_per_question(self) -> tuple[int, ...]:
        return tuple(length * self.spec.bytes_per_token for length in self.lengths)

    @property
    def turn_ends(self) -> tuple[int, ...]:
        """The position after each question's whole turn: where a reader goes on."""
        return tuple(start + length for start, length in zip(self.turn_starts, self.turn_lengths, strict=True))


@dataclass(frozen=True)
class CodecStats:
    """A lossy codec, the bytes that travelled, and the RMS error of the KV relative to its RMS."""

    codec: CodecName
    num_bytes: int
    relative_error: float


@dataclass(frozen=True)
class SegmentChunk:
    """Tokens [begins[q], begins[q] + lengths[q]) of each question's kept tokens of one segment; never mutated.

    `kv_LCHTD` [L, 2, H, sum(lengths), D] is one contiguous buffer. `recompute_inputs` holds the turn's inputs that
    follow those of the pieces before; together they are the whole turn's, kept or not. Raises SegmentError if the parts
    contradict each other.
    """

    outline: SegmentMeta
    begins: tuple[int, ...]
    lengths: tuple[int, ...]
    kv_LCHTD: Tensor
    recompute_inputs: RecomputeInputs
    loss: "CodecStats | None" = None  # what a codec did to it on its way here

    def __post_init__(self) -> None:
        outline = self.outline
        outline.spec.check_tensors(self.kv_LCHTD, sum(self.lengths), self.recompute_inputs.latents_NE)
        counts = (len(self.begins), len(self.lengths), len(self.recompute_inputs.lengths))
        if set(counts) != {outline.num_questions}:
            raise SegmentError(f"a piece of {counts} questions, its segment has {outline.num_questions}")
        for begin, length, total in zip(self.begins, self.lengths, outline.lengths, strict=True):
            if min(begin, length) < 0 or begin + length > total:
                raise SegmentError(f"tokens {begin}..{begin + length} of a segment's {total}")

    @staticmethod
    def whole(segment: Segment) -> "SegmentChunk":
        """All of a segment; shares its bytes."""
        return _WholePiece(segment)

    @staticmethod
    def without_kv(outline: SegmentMeta, recompute_inputs: RecomputeInputs) -> "SegmentChunk":
        """Inputs of a turn alone, all or those that follow the pieces before: whoever reads it computes the KV."""
        spec, nothing = outline.spec, (0,) * outline.num_questions
        kv_LCHTD = torch.empty(spec.num_layers, 2, spec.num_kv_heads, 0, spec.head_dim, dtype=spec.torch_dtype)
        return SegmentChunk(outline, nothing, nothing, kv_LCHTD, recompute_inputs)

    @property
    def num_bytes(self) -> int:
        """Bytes of KV (the recompute inputs is not counted)."""
        return sum(self.lengths) * self.outline.spec.bytes_per_token

    @property
    def travel_bytes(self) -> int:
        """Bytes of KV as they came here: fewer if a codec was used."""
        return self.loss.num_bytes if self.loss else self.num_bytes

    @property
    def is_whole(self) -> bool:
        """Whether this is the only piece of its segment."""
        return self.lengths == self.outline.lengths and self.recompute_inputs.lengths == self.outline.turn_lengths

    def kv_of(self, question: int) -> Tensor:
        """A view of one question's KV [L, 2, H, lengths[question], D]."""
        first = sum(self.lengths[:question])
        return self.kv_LCHTD[:, :, :, first : first + self.lengths[question]]

    def parts_of(self, question: int) -> Iterator[tuple[int, Tensor]]:
        """One question's KV in views that lie side by side: the first head of each, and [L, 2, heads, T, D]."""
        yield 0, self.kv_of(question)


class _WholePiece(SegmentChunk):
    """A segment as its only piece. Its bytes are asked for when they are needed: the segment may still have to copy
    them from somewhere."""

    segment: Segment

    def __init__(self, segment: Segment) -> None:
        values = {
            "segment": segment,
            "outline": SegmentMeta.of(segment),
            "begins": (0,) * segment.num_questions,
            "lengths": segment.lengths,
            "recompute_inputs": segment.recompute_inputs,
            "loss": None,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)  # the class is frozen

    @property
    def kv_LCHTD(self) -> Tensor:  # noqa: N802  # a field there
        return self.segment.kv_LCHTD

    def __reduce__(self) -> tuple[Any, ...]:
        return _WholePiece, (self.segment,)


def join(pieces: Sequence[SegmentChunk]) -> Segment:
    """The segment that these pieces, in their order, are all of. Shares the bytes of a single one, else copies them.

    Raises SegmentError for pieces that are not of one segment, or that leave something out.
    """
    if not pieces:
        raise SegmentError("a segment has at least one piece")
    outline = pieces[0].outline
    questions = range(outline.num_questions)
    if any(piece.outline != outline for piece in pieces):
        raise SegmentError("pieces of different segments")
    for question in questions:
        edges = [0, *(piece.begins[question] + piece.lengths[question] for piece in pieces)]
        begins = [piece.begins[question] for piece in pieces]
        inputs = sum(piece.recompute_inputs.lengths[question] for piece in pieces)
        if begins != edges[:-1] or edges[-1] != outline.lengths[question] or inputs != outline.turn_lengths[question]:
            raise SegmentError(
                f"question {question}: pieces end at tokens {edges[1:]} of {outline.lengths[question]} "
                f"and at input {inputs} of {outline.turn_lengths[question]}"
            )
    if isinstance(pieces[0], _WholePiece):
        return pieces[0].segment
    if len(pieces) == 1:
        kv_LCHTD, recompute_inputs = pieces[0].kv_LCHTD, pieces[0].recompute_inputs
    else:
        kv_LCHTD = torch.cat([piece.kv_of(question) for question in questions for piece in pieces], dim=3)
        recompute_inputs = join_recompute_inputs([piece.recompute_inputs for piece in pieces], outline.turn_lengths)
    return Segment(outline.spec, kv_LCHTD, outline.lengths, outline.turn_starts, outline.offsets, recompute_inputs)


def have_kv(pieces: Sequence[SegmentChunk]) -> bool:
    """Whether all these pieces of one segment bring its KV, and not its recompute inputs alone."""
    return any(sum(piece.lengths) for piece in pieces) or not any(sum(piece.outline.lengths) for piece in pieces)


def repeat(piece: SegmentChunk, num_questions: int) -> SegmentChunk:
    """A piece of one question as that of `num_questions` that all have the same memory; copies its KV for each.

    Raises SegmentError for a piece of several questions.
    """
    outline, once = piece.outline, [0] * num_questions
    if outline.num_questions != 1:
        raise SegmentError(f"only memory of one question can be repeated, not of {outline.num_questions}")
    per_question = (outline.lengths, outline.turn_starts, outline.offsets, outline.turn_lengths)
    return SegmentChunk(
        SegmentMeta(outline.spec, *(values * num_questions for values in per_question)),
        piece.begins * num_questions,
        piece.lengths * num_questions,
        torch.cat([piece.kv_LCHTD[:, :, :, :0], *(piece.kv_of(question) for question in once)], dim=3),
        piece.recompute_inputs.take(once),
        piece.loss,
    )


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
