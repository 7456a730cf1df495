"""The inputs that one turn has fed to the model; they define its segment's meta data, recompute inputs and chunks.

Dimensions: B rows (questions), N latent thoughts of all questions one after another, E hidden size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from latentmas_ray.engine.convergence import complete_rows, cosines_of
from latentmas_ray.memory import LATENT, KVCacheSpec, RecomputeInputs, SegmentMeta
from latentmas_ray.topology.agent import HandsOver


@dataclass(frozen=True)
class ChunkSpan:
    """The tokens since the last chunk: [begins[q], begins[q] + lengths[q]) of each question's kept tokens."""

    begins: tuple[int, ...]
    lengths: tuple[int, ...]
    recompute_inputs: RecomputeInputs


class TurnInputs:
    """The inputs of one turn per question, in order: token ids, `LATENT` for a thought."""

    def __init__(self, spec: KVCacheSpec, turn_starts: Sequence[int]) -> None:
        """`turn_starts[q]` is the position of question q's first input."""
        self._spec = spec
        self._turn_starts = tuple(turn_starts)
        self._ids: list[list[int]] = [[] for _ in turn_starts]
        self._thoughts: list[Tensor] = []  # [B, E] each; a row that has stopped thinking has anything in the later ones
        self.num_thoughts = [0] * len(self._ids)  # of each question
        self._prompt_lengths = (0,) * len(self._turn_starts)
        self._num_sent = [0] * len(self._turn_starts)  # inputs that were sent in earlier chunks
        self._num_sent_thoughts = 0
        self._is_cut = [False] * len(self._turn_starts)  # nothing after the prompt is kept
        self._is_withdrawn = [False] * len(self._turn_starts)

    def add_tokens(self, token_ids: Sequence[Sequence[int]]) -> None:
        """Add known tokens of every question, ragged."""
        for ids, new in zip(self._ids, token_ids, strict=True):
            ids.extend(new)

    def add_thoughts(self, thought_NE: Tensor, rows: Sequence[int]) -> None:
        """Add one latent thought, the embedding that is fed, of the questions `rows`: those that had one in the step
        before, or some of them."""
        if len(rows) < len(self._ids):
            thought_BE = (
                self._thoughts[-1].clone()
                if self._thoughts
                else thought_NE.new_zeros(len(self._ids), thought_NE.shape[1])
            )
            thought_BE[list(rows)] = thought_NE
            thought_NE = thought_BE
        self._thoughts.append(thought_NE)
        for row in rows:
            self._ids[row].append(LATENT)
            self.num_thoughts[row] += 1

    def complete_thoughts(self, rows: Sequence[Tensor], num_thoughts: int) -> None:
        """Add thoughts [N, E] of each question, after which each has `num_thoughts`."""
        for row, thoughts_NE in enumerate(rows):
            self._ids[row].extend([LATENT] * len(thoughts_NE))
            self.num_thoughts[row] += len(thoughts_NE)
        complete_rows(self._thoughts, rows, num_thoughts)

    def thought_cosines(self) -> list[list[float]]:
        """By question, the cosine of each thought from the second on with the one before."""
        if not self._thoughts:
            return [[] for _ in self._ids]
        return [
            cosines[: max(0, count - 1)]
            for cosines, count in zip(cosines_of(self._thoughts), self.num_thoughts, strict=True)
        ]

    def end_prompt(self) -> None:
        """Mark all inputs so far as the prompt."""
        self._prompt_lengths = tuple(map(len, self._ids))

    def drop_thoughts(self, rows: Sequence[int]) -> None:
        """Keep nothing after the prompt for these questions; positions do not change. Before the first chunk."""
        for row in rows:
            self._is_cut[row] = True

    def withdraw(self, rows: Sequence[int]) -> None:
        """Remove all inputs and positions of these questions. Before the first chunk."""
        lengths = list(self._prompt_lengths)
        for row in rows:
            self._is_withdrawn[row], self._ids[row], lengths[row] = True, [], 0
        self._prompt_lengths = tuple(lengths)

    def segment_meta(self, hands_over: HandsOver, num_coming: int = 0, *, is_open: bool = False) -> SegmentMeta:
        """The meta data of the turn's segment after `num_coming` more inputs of each question; with `is_open` after at
        most so many."""
        turns = tuple(len(ids) + num_coming for ids in self._ids)
        offsets = self._prompt_lengths if hands_over == "latents" else (0,) * len(turns)
        stops = [
            prompt if hands_over == "prompt" or is_cut else turn
            for prompt, turn, is_cut in zip(self._prompt_lengths, turns, self._is_cut, strict=True)
        ]
        lengths = tuple(stop - offset for stop, offset in zip(stops, offsets, strict=True))
        return SegmentMeta(self._spec, lengths, self._turn_starts, offsets, turns, is_open=is_open)

    def recompute_inputs(self) -> RecomputeInputs:
        """All inputs of the turn."""
        return self._recompute_inputs([0] * len(self._ids), 0)

    def pop_span(self, meta: SegmentMeta) -> ChunkSpan:
        """Return the inputs since the last call, as a span of the segment with these meta data."""
        first, self._num_sent = self._num_sent, [len(ids) for ids in self._ids]
        edges = [
            [min(max(edge - offset, 0), length) for edge in (begin, stop)]  # from inputs to kept tokens
            for begin, stop, offset, length in zip(first, self._num_sent, meta.offsets, meta.lengths, strict=True)
        ]
        recompute_inputs = self._recompute_inputs(first, self._num_sent_thoughts)
        self._num_sent_thoughts = len(self._thoughts)
        return ChunkSpan(
            tuple(begin for begin, _ in edges), tuple(stop - begin for begin, stop in edges), recompute_inputs
        )

    def _recompute_inputs(self, first: Sequence[int], first_thought: int) -> RecomputeInputs:
        thoughts = self._thoughts[first_thought:]
        if thoughts:
            kept = [row for row, is_withdrawn in enumerate(self._is_withdrawn) if not is_withdrawn]
            thoughts_BNE = torch.stack(thoughts, dim=1).cpu()
            parts = [thoughts_BNE[row, : max(0, self.num_thoughts[row] - first_thought)] for row in kept]
            thoughts_NE = torch.cat([thoughts_BNE[:0].flatten(0, 1), *parts])
        else:
            thoughts_NE = torch.empty(0, self._spec.hidden_size, dtype=self._spec.torch_dtype)
        ids = [row[begin:] for row, begin in zip(self._ids, first, strict=True)]
        return RecomputeInputs(torch.tensor(list(chain(*ids)), dtype=torch.int64), thoughts_NE, tuple(map(len, ids)))
