"""What one turn has fed to the model, and so what its segment is: meta, recompute inputs, and the parts that have
left.

Dimensions: B rows (questions), N latent thoughts of all questions one after another, E hidden size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from latentmas_ray.memory import LATENT, KVCacheSpec, RecomputeInputs, SegmentMeta
from latentmas_ray.topology.agent import HandsOver


@dataclass(frozen=True)
class ChunkSpan:
    """What is new since the last chunk: tokens [begins[q], begins[q] + lengths[q]) of those that are kept."""

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
        self._thoughts: list[Tensor] = []  # [B, E] each
        self._prompt_lengths = (0,) * len(self._turn_starts)
        self._num_sent = [0] * len(self._turn_starts)  # inputs that have left in a part
        self._num_sent_thoughts = 0
        self._is_cut = [False] * len(self._turn_starts)  # nothing behind the prompt is kept
        self._is_withdrawn = [False] * len(self._turn_starts)

    def add_tokens(self, token_ids: Sequence[Sequence[int]]) -> None:
        """Known tokens of every question, ragged."""
        for ids, new in zip(self._ids, token_ids, strict=True):
            ids.extend(new)

    def add_thought(self, thought_BE: Tensor) -> None:
        """One latent thought of every question: the embedding that is fed."""
        self._thoughts.append(thought_BE)
        for ids in self._ids:
            ids.append(LATENT)

    def end_prompt(self) -> None:
        """What has been added so far is the prompt."""
        self._prompt_lengths = tuple(map(len, self._ids))

    def drop_thoughts(self, rows: Sequence[int]) -> None:
        """Of these questions nothing behind the prompt is kept; positions stay what they were. Before any part left."""
        for row in rows:
            self._is_cut[row] = True

    def withdraw(self, rows: Sequence[int]) -> None:
        """As if the turn had never been, for these questions: no inputs, no positions. Before any part left."""
        lengths = list(self._prompt_lengths)
        for row in rows:
            self._is_withdrawn[row], self._ids[row], lengths[row] = True, [], 0
        self._prompt_lengths = tuple(lengths)

    def segment_meta(self, hands_over: HandsOver, num_coming: int = 0) -> SegmentMeta:
        """What the turn's segment will be when `num_coming` more inputs of each question have been fed."""
        turns = tuple(len(ids) + num_coming for ids in self._ids)
        offsets = self._prompt_lengths if hands_over == "latents" else (0,) * len(turns)
        stops = [
            prompt if hands_over == "prompt" or is_cut else turn
            for prompt, turn, is_cut in zip(self._prompt_lengths, turns, self._is_cut, strict=True)
        ]
        lengths = tuple(stop - offset for stop, offset in zip(stops, offsets, strict=True))
        return SegmentMeta(self._spec, lengths, self._turn_starts, offsets, turns)

    def recompute_inputs(self) -> RecomputeInputs:
        """All inputs of the turn."""
        return self._recompute_inputs([0] * len(self._ids), 0)

    def pop_span(self, meta: SegmentMeta) -> ChunkSpan:
        """What was fed since the last call, as a part of the segment with this meta."""
        first, self._num_sent = self._num_sent, [len(ids) for ids in self._ids]
        edges = [
            [min(max(edge - offset, 0), length) for edge in (begin, stop)]  # from inputs to tokens that are kept
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
            thoughts_NE = torch.stack(thoughts, dim=1)[kept].reshape(-1, self._spec.hidden_size).cpu()
        else:
            thoughts_NE = torch.empty(0, self._spec.hidden_size, dtype=self._spec.torch_dtype)
        ids = [row[begin:] for row, begin in zip(self._ids, first, strict=True)]
        return RecomputeInputs(torch.tensor(list(chain(*ids)), dtype=torch.int64), thoughts_NE, tuple(map(len, ids)))
