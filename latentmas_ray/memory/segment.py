"""Segments of working memory: ragged, immutable, each with the recompute inputs to compute it again.

Dimensions: L layers, C 2 (key, value), H KV heads, T tokens of all questions one after another, D head dim,
N latent thoughts of all questions one after another, E hidden size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from latentmas_ray.errors import SegmentError
from latentmas_ray.memory.spec import KVCacheSpec

LATENT = -1  # stands in `token_ids_T` where a latent thought was fed instead of a token


@dataclass(frozen=True)
class RecomputeInputs:
    """The inputs of one agent's turn, in order: what is needed to compute its segment again.

    `token_ids_T` [T] int64 holds the questions one after another, `lengths[q]` entries each; every `LATENT` in it
    takes the next row of `latents_NE` [N, E] (the embedding that was fed, in the model's dtype).
    """

    token_ids_T: Tensor
    latents_NE: Tensor
    lengths: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.token_ids_T.shape != (sum(self.lengths),) or self.token_ids_T.dtype != torch.int64:
            raise SegmentError(f"recipe: {tuple(self.token_ids_T.shape)} token ids for lengths {self.lengths}")
        num_latents = int((self.token_ids_T == LATENT).sum())
        if self.latents_NE.ndim != 2 or self.latents_NE.shape[0] != num_latents:
            raise SegmentError(f"recipe: {tuple(self.latents_NE.shape)} latents for {num_latents} latent positions")

    @property
    def bytes_per_question(self) -> tuple[int, ...]:
        """Bytes of token ids and latent thoughts of each question."""
        id_bytes, latent_bytes = (t.element_size() for t in (self.token_ids_T, self.latents_NE))
        return tuple(
            length * id_bytes + num_latents * self.latents_NE.shape[1] * latent_bytes
            for length, num_latents in zip(self.lengths, self.latents_per_question(), strict=True)
        )

    def latents_per_question(self) -> tuple[int, ...]:
        """Number of latent thoughts of each question."""
        return tuple(int((ids == LATENT).sum()) for ids in self.token_ids_T.split(list(self.lengths)))

    def head(self, counts: Sequence[int]) -> "RecomputeInputs":
        """The first `counts[q]` inputs of each question, or all where there are fewer."""
        ids = self.token_ids_T.split(list(self.lengths))
        latents = self.latents_NE.split(list(self.latents_per_question()))
        kept = [part[:count] for part, count in zip(ids, counts, strict=True)]
        return RecomputeInputs(
            torch.cat([self.token_ids_T[:0], *kept]),
            torch.cat(
                [
                    self.latents_NE[:0],
                    *(part[: int((ids == LATENT).sum())] for part, ids in zip(latents, kept, strict=True)),
                ]
            ),
            tuple(map(len, kept)),
        )

    def take(self, questions: Sequence[int]) -> "RecomputeInputs":
        """The recompute inputs of some questions, in the order given."""
        ids = self.token_ids_T.split(list(self.lengths))
        latents = self.latents_NE.split(list(self.latents_per_question()))
        return RecomputeInputs(
            torch.cat([ids[q] for q in questions]) if questions else self.token_ids_T[:0],
            torch.cat([latents[q] for q in questions]) if questions else self.latents_NE[:0],
            tuple(self.lengths[q] for q in questions),
        )


@dataclass(frozen=True)
class Segment:
    """What one agent wrote for one batch of questions. Never mutated after it was made.

    `kv_LCHTD` [L, 2, H, sum(lengths), D] is contiguous; keys are rotated for their positions. Question q's turn
    began at position `turn_starts[q]`; the first of its `lengths[q]` kept tokens is number `offsets[q]` of the turn
    (an agent may hand over only a part of its turn; positions stay what they were).

    Raises SegmentError if the parts contradict each other.
    """

    spec: KVCacheSpec
    kv_LCHTD: Tensor
    lengths: tuple[int, ...]
    turn_starts: tuple[int, ...]
    offsets: tuple[int, ...]
    recompute_inputs: RecomputeInputs

    def __post_init__(self) -> None:
        self.spec.check_tensors(self.kv_LCHTD, sum(self.lengths), self.recompute_inputs.latents_NE)
        per_question = (self.turn_starts, self.offsets, self.recompute_inputs.lengths)
        if any(len(values) != len(self.lengths) for values in per_question):
            raise SegmentError(
                f"{len(self.lengths)} lengths, but {[len(values) for values in per_question]} of the rest"
            )
        for length, start, offset, turn in zip(self.lengths, *per_question, strict=True):
            if min(length, start, offset) < 0 or offset + length > turn:
                raise SegmentError(f"tokens {offset}..{offset + length} of a turn of {turn} at position {start}")

    @property
    def num_questions(self) -> int:
        return len(self.lengths)

    @property
    def num_tokens(self) -> int:
        return sum(self.lengths)

    @property
    def num_bytes(self) -> int:
        """Bytes of KV (the recompute inputs is not counted)."""
        return self.num_tokens * self.spec.bytes_per_token

    @property
    def bytes_per_question(self) -> tuple[int, ...]:
        return tuple(length * self.spec.bytes_per_token for length in self.lengths)

    @property
    def turn_ends(self) -> tuple[int, ...]:
        """The position after each question's whole turn: where a reader goes on."""
        return tuple(
            start + length for start, length in zip(self.turn_starts, self.recompute_inputs.lengths, strict=True)
        )

    @property
    def starts(self) -> tuple[int, ...]:
        """The position of each question's first kept token."""
        return tuple(start + offset for start, offset in zip(self.turn_starts, self.offsets, strict=True))

    def kv_of(self, question: int) -> Tensor:
        """A view of one question's KV [L, 2, H, lengths[question], D]; it shares the segment's bytes."""
        first = sum(self.lengths[:question])
        return self.kv_LCHTD[:, :, :, first : first + self.lengths[question]]

    def take(self, questions: Sequence[int]) -> "Segment":
        """A segment of some questions, in the order given; copies their KV."""
        kv = [self.kv_of(question) for question in questions]
        return Segment(
            self.spec,
            torch.cat(kv, dim=3) if kv else self.kv_LCHTD[:, :, :, :0].contiguous(),
            tuple(self.lengths[q] for q in questions),
            tuple(self.turn_starts[q] for q in questions),
            tuple(self.offsets[q] for q in questions),
            self.recompute_inputs.take(questions),
        )

    def split(self) -> list["Segment"]:
        """One segment a question."""
        return [self.take([question]) for question in range(self.num_questions)]

    def slice(self, windows: Sequence[tuple[int, int]]) -> "Segment":
        """Keep tokens [first, stop) of each question's kept tokens; positions stay what they were.

        Raises SegmentError for a window outside the question's tokens.
        """
        if len(windows) != self.num_questions:
            raise SegmentError(f"{len(windows)} windows for {self.num_questions} questions")
        for (first, stop), length in zip(windows, self.lengths, strict=True):
            if not 0 <= first <= stop <= length:
                raise SegmentError(f"window {first}..{stop} of {length} tokens")
        kv = [self.kv_of(q)[:, :, :, first:stop] for q, (first, stop) in enumerate(windows)]
        return Segment(
            self.spec,
            torch.cat(kv, dim=3) if kv else self.kv_LCHTD,
            tuple(stop - first for first, stop in windows),
            self.turn_starts,
            tuple(offset + first for offset, (first, _) in zip(self.offsets, windows, strict=True)),
            self.recompute_inputs,
        )


def concatenate(segments: Sequence[Segment]) -> Segment:
    """The questions of several segments of one agent as one segment; copies their KV.

    Raises SegmentError for no segment at all, IncompatibleMemoryError for segments of different models.
    """
    if not segments:
        raise SegmentError("no segment to concatenate")
    first = segments[0]
    for segment in segments[1:]:
        first.spec.check_same(segment.spec)
    inputs = [segment.recompute_inputs for segment in segments]
    return Segment(
        first.spec,
        torch.cat([segment.kv_LCHTD for segment in segments], dim=3),
        tuple(length for segment in segments for length in segment.lengths),
        tuple(start for segment in segments for start in segment.turn_starts),
        tuple(offset for segment in segments for offset in segment.offsets),
        RecomputeInputs(
            torch.cat([recompute_inputs.token_ids_T for recompute_inputs in inputs]),
            torch.cat([recompute_inputs.latents_NE for recompute_inputs in inputs]),
            tuple(length for recompute_inputs in inputs for length in recompute_inputs.lengths),
        ),
    )
