"""Segments of working memory: ragged, immutable, each with the inputs to recompute it.

Dimensions: L layers, H KV heads, T tokens of all questions one after another, D head dim, N latent thoughts of all
questions one after another, E hidden size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import add
from typing import TypeVar

import torch
from torch import Tensor

from latentmas_ray.errors import SegmentError
from latentmas_ray.memory.kv_source import InMemoryKV, KVLayout, KVSource
from latentmas_ray.memory.layer_spec import KeptTokens, check_kept, count_kept, list_kept
from latentmas_ray.memory.spec import KVCacheSpec

T = TypeVar("T")
LATENT = -1  # in `token_ids_T`: a latent thought was fed instead of a token


@dataclass(frozen=True)
class RecomputeInputs:
    """The inputs of one agent's turn, in order, from which its segment can be recomputed.

    `token_ids_T` [T] int64 holds the questions one after another, `lengths[q]` entries each; every `LATENT` in it
    stands for the next row of `latents_NE` [N, E] (the embedding that was fed, in the model's dtype). Raises
    SegmentError if the counts disagree.
    """

    token_ids_T: Tensor
    latents_NE: Tensor
    lengths: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.token_ids_T.shape != (sum(self.lengths),) or self.token_ids_T.dtype != torch.int64:
            raise SegmentError(
                f"recompute inputs: {tuple(self.token_ids_T.shape)} token ids for lengths {self.lengths}"
            )
        num_latents = int((self.token_ids_T == LATENT).sum())
        if self.latents_NE.ndim != 2 or self.latents_NE.shape[0] != num_latents:
            raise SegmentError(
                f"recompute inputs: {tuple(self.latents_NE.shape)} latents for {num_latents} latent positions"
            )

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
        """The first `counts[q]` inputs of each question, or all if it has fewer."""
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
        """The recompute inputs of `questions`, in that order."""
        ids = self.token_ids_T.split(list(self.lengths))
        latents = self.latents_NE.split(list(self.latents_per_question()))
        return RecomputeInputs(
            torch.cat([ids[q] for q in questions]) if questions else self.token_ids_T[:0],
            torch.cat([latents[q] for q in questions]) if questions else self.latents_NE[:0],
            tuple(self.lengths[q] for q in questions),
        )


@dataclass(frozen=True)
class SegmentMeta:
    """A segment without its bytes: the model's spec, and the number and positions of each question's tokens.

    Question q's turn begins at position `turn_starts[q]` and takes `turn_lengths[q]` positions. The `lengths[q]` tokens
    that are handed over begin at token `offsets[q]` of the turn (an agent may hand over only a part of its turn;
    positions do not change). If layers do not keep all of them (eviction, a sliding window), `kept[l][q]` are the
    ranges of tokens that layer l keeps, counted from the first that is handed over: token n has position
    turn_starts[q] + offsets[q] + n in every layer. Layers may keep different tokens, and an engine can read them if all
    keep equally many. Raises SegmentError if the fields contradict each other.

    Where the turn is not over and may end early (`is_open`), `lengths` and `turn_lengths` are the most that there can
    be: only the segment's last chunk has the true ones (`memory.chunk.close`).
    """

    spec: KVCacheSpec
    lengths: tuple[int, ...]
    turn_starts: tuple[int, ...]
    offsets: tuple[int, ...]
    turn_lengths: tuple[int, ...]
    kept: KeptTokens | None = None
    is_open: bool = False

    def __post_init__(self) -> None:
        per_question = (self.lengths, self.turn_starts, self.offsets, self.turn_lengths)
        if len({len(values) for values in per_question}) > 1:
            raise SegmentError(f"meta data of {[len(values) for values in per_question]} questions")
        for length, start, offset, turn in zip(*per_question, strict=True):
            if min(length, start, offset) < 0 or offset + length > turn:
                raise SegmentError(f"tokens {offset}..{offset + length} of a turn of {turn} at position {start}")
        if self.kept is not None:
            check_kept(self.kept, self.spec.num_layers, self.lengths)

    @property
    def num_questions(self) -> int:
        return len(self.lengths)

    @property
    def num_bytes(self) -> int:
        """Bytes of KV of the whole segment."""
        return sum(self.bytes_per_question)

    @property
    def bytes_per_question(self) -> tuple[int, ...]:
        layout, state_bytes = self.layout(), 0
        if layout.has_states:
            state_bytes = self.spec.state_bytes
        if layout.layer_lengths is None:
            return tuple(length * self.spec.bytes_per_token + state_bytes for length in layout.lengths)
        by_layer = zip(self.spec.layers, layout.layer_lengths, strict=True)
        columns = [[length * layer.bytes_per_token for length in lengths] for layer, lengths in by_layer]
        return tuple(sum(column) + state_bytes for column in zip(*columns, strict=True))

    @property
    def evicted_bytes(self) -> tuple[int, ...]:
        """Bytes of KV of each question's tokens that layers do not keep."""
        state_bytes = self.spec.state_bytes if self.layout().has_states else 0
        whole = (length * self.spec.bytes_per_token + state_bytes for length in self.lengths)
        return tuple(all_bytes - kept for all_bytes, kept in zip(whole, self.bytes_per_question, strict=True))

    @property
    def kv_lengths(self) -> tuple[int, ...]:
        """The tokens of each question whose KV it has, in each layer: fewer than `lengths` after an eviction. What they
        take in a reader's cache."""
        return self.layout().lengths

    def kept_tokens(self, begins: Sequence[int], lengths: Sequence[int]) -> list[list[Tensor]] | None:
        """Of tokens [begins[q], begins[q] + lengths[q]) those that are kept, counted from begins[q] on: by layer and
        question, int64 [T]. None if no layer drops any."""
        if self.kept is None:
            return None
        windows = list(zip(begins, lengths, strict=True))
        found: dict[int, list[Tensor]] = {}
        for layer in self.kept:
            if id(layer) not in found:
                found[id(layer)] = [
                    torch.tensor(list_kept(ranges, *window), dtype=torch.int64) - window[0]
                    for ranges, window in zip(layer, windows, strict=True)
                ]
        return [found[id(layer)] for layer in self.kept]

    @property
    def turn_ends(self) -> tuple[int, ...]:
        """The position after each question's whole turn: where a reader's turn begins."""
        return tuple(start + length for start, length in zip(self.turn_starts, self.turn_lengths, strict=True))

    @property
    def starts(self) -> tuple[int, ...]:
        """The position of each question's first token that is handed over."""
        return tuple(start + offset for start, offset in zip(self.turn_starts, self.offsets, strict=True))

    def take(self, questions: Sequence[int]) -> "SegmentMeta":
        """The meta data of `questions`, in that order."""

        def of(values: tuple[T, ...]) -> tuple[T, ...]:
            return tuple(values[question] for question in questions)

        return SegmentMeta(
            self.spec,
            of(self.lengths),
            of(self.turn_starts),
            of(self.offsets),
            of(self.turn_lengths),
            None if self.kept is None else tuple(map(of, self.kept)),
            self.is_open,
        )

    def layout(self, begins: tuple[int, ...] | None = None, lengths: tuple[int, ...] | None = None) -> KVLayout:
        """The layout of tokens [begins[q], begins[q] + lengths[q]) of each question in one buffer; by default of all
        tokens. The last tokens come with the states of layers that have them."""
        begins = begins or (0,) * len(self.lengths)
        lengths = self.lengths if lengths is None else lengths
        has_states = self.spec.has_states and self._is_end(begins, lengths)
        if self.kept is None:
            return KVLayout(self.spec, lengths, has_states=has_states)
        windows = list(zip(begins, lengths, strict=True))
        # By identity: layers that keep the same are one object, and hashing all their ranges takes longer.
        distinct = {id(layer): layer for layer in self.kept}
        counts = {key: count_kept(layer, windows) for key, layer in distinct.items()}
        by_layer = tuple(counts[id(layer)] for layer in self.kept)
        if len(set(by_layer)) == 1:
            return KVLayout(self.spec, by_layer[0], has_states=has_states)
        return KVLayout(self.spec, lengths, by_layer, has_states)

    def _is_end(self, begins: tuple[int, ...], lengths: tuple[int, ...]) -> bool:
        """Whether these tokens end the segment: the states after them are the segment's."""
        ends = tuple(map(add, begins, lengths))
        return any(self.lengths) and ends == self.lengths and not self.is_open


@dataclass(frozen=True)
class Segment:
    """The working memory that one agent computed for one batch of questions. Immutable.

    The keys of `kv` are rotated for their positions. Raises SegmentError if the fields contradict each other.
    """

    meta: SegmentMeta
    kv: KVSource
    recompute_inputs: RecomputeInputs

    def __post_init__(self) -> None:
        if self.recompute_inputs.lengths != self.meta.turn_lengths:
            raise SegmentError(f"{self.recompute_inputs.lengths} inputs of turns of {self.meta.turn_lengths}")
        check_parts(self.meta, self.meta.layout(), self.kv, self.recompute_inputs)

    @classmethod
    def from_tensor(
        cls,
        spec: KVCacheSpec,
        kv_LCHTD: Tensor,
        lengths: tuple[int, ...],
        turn_starts: tuple[int, ...],
        offsets: tuple[int, ...],
        recompute_inputs: RecomputeInputs,
    ) -> "Segment":
        """The segment whose KV is [L, 2, H, sum(lengths), D], contiguous; shares its bytes. Raises SegmentError."""
        meta = SegmentMeta(spec, lengths, turn_starts, offsets, recompute_inputs.lengths)
        return cls(meta, InMemoryKV.of(spec, lengths, kv_LCHTD), recompute_inputs)

    @property
    def kv_LCHTD(self) -> Tensor:  # noqa: N802  # it carries its dimensions like every tensor
        """The KV [L, 2, H, T, D], contiguous. The first call may copy, decode or join it."""
        return self.kv.tensor()

    @property
    def spec(self) -> KVCacheSpec:
        return self.meta.spec

    @property
    def lengths(self) -> tuple[int, ...]:
        return self.meta.lengths

    @property
    def kv_lengths(self) -> tuple[int, ...]:
        """See `SegmentMeta`."""
        return self.kv.layout.lengths

    @property
    def turn_starts(self) -> tuple[int, ...]:
        return self.meta.turn_starts

    @property
    def turn_ends(self) -> tuple[int, ...]:
        return self.meta.turn_ends

    @property
    def num_questions(self) -> int:
        return self.meta.num_questions

    def layout(self) -> KVLayout:
        """The layout of its KV in one buffer."""
        return self.kv.layout

    def kv_of(self, question: int) -> Tensor:
        """A view of one question's KV [L, 2, H, kv_lengths[question], D]; it shares the segment's bytes."""
        return self.kv.view_of(question)


def check_parts(meta: SegmentMeta, layout: KVLayout, kv: KVSource, recompute_inputs: RecomputeInputs) -> None:
    """Raises SegmentError unless the KV has this layout and the latent thoughts fit the spec. Reads no bytes."""
    if kv.layout != layout:
        raise SegmentError(
            f"KV of {kv.layout.lengths} tokens, the segment has {layout.lengths}; or their layouts differ"
        )
    spec, latents_NE = meta.spec, recompute_inputs.latents_NE
    if latents_NE.shape[1] != spec.hidden_size or latents_NE.dtype != spec.torch_dtype:
        raise SegmentError(
            f"latents of size {latents_NE.shape[1]} {latents_NE.dtype}, the spec wants {spec.hidden_size} {spec.dtype}"
        )
