"""The inputs that one turn has fed to the model; they define its segment's meta data, recompute inputs and chunks.

Dimensions: B rows (questions), N latent thoughts of all questions one after another, E hidden size.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from latentmas_ray.engine.convergence import complete_rows, cosines_of
from latentmas_ray.memory import LATENT, KVCacheSpec, RecomputeInputs, SegmentMeta
from latentmas_ray.memory.layer_spec import KeptTokens, LayerTokens, Ranges
from latentmas_ray.topology.agent import HandsOver


@dataclass(frozen=True)
class ChunkSpan:
    """The tokens since the last chunk: [begins[q], begins[q] + lengths[q]) of each question's kept tokens."""

    begins: tuple[int, ...]
    lengths: tuple[int, ...]
    recompute_inputs: RecomputeInputs


# The positions of each question's prompt that are handed over: by layer and question, ranges as in `SegmentMeta.kept`.
PromptChoice = Sequence[Sequence[Ranges]]


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
        self._choice: PromptChoice | None = None  # None: all positions

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

    def keep(self, choice: PromptChoice) -> None:
        """Keep only these positions of the prompts. Before the first chunk."""
        self._choice = choice

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
        choice = self._choice
        if hands_over == "latents+sink":  # of the prompt its first token: attention rests there, whatever it says
            choice = [[((0, 1),)] * len(turns)] * self._spec.num_layers
        kept = None if choice is None or hands_over == "latents" else self._kept(choice, stops)
        return SegmentMeta(self._spec, lengths, self._turn_starts, offsets, turns, kept, is_open)

    def _kept(self, choice: PromptChoice, stops: Sequence[int]) -> KeptTokens | None:
        """What each layer keeps of the first `stops[q]` inputs: its choice of the prompt, and what follows the
        prompt. None if that is all."""
        found: dict[int, LayerTokens] = {}
        for layer in choice:
            if id(layer) not in found:
                found[id(layer)] = tuple(
                    () if is_withdrawn else _add_rest(ranges, prompt, stop)
                    for ranges, prompt, stop, is_withdrawn in zip(
                        layer, self._prompt_lengths, stops, self._is_withdrawn, strict=True
                    )
                )
        whole = tuple(((0, stop),) if stop else () for stop in stops)
        return None if all(layer == whole for layer in found.values()) else tuple(found[id(layer)] for layer in choice)

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


def _add_rest(ranges: Ranges, prompt: int, stop: int) -> Ranges:
    """The ranges, which end in a prompt of that length, and all from its end to `stop`."""
    if stop <= prompt:
        return ranges
    if ranges and ranges[-1][1] == prompt:
        return (*ranges[:-1], (ranges[-1][0], stop))
    return (*ranges, (prompt, stop))


def prefill_windows(lengths: Sequence[int], size: int) -> Iterator[list[tuple[int, int]]]:
    """Windows (first, stop) into rows of these lengths, whose sizes add up to at most `size` per chunk.

    Whole rows first: every forward reads all weights, so fewer and fuller ones are faster.
    """
    done = [0] * len(lengths)
    while any(first < length for first, length in zip(done, lengths, strict=True)):
        left, windows = size, []
        for first, length in zip(done, lengths, strict=True):
            stop = min(length, first + left)
            left -= stop - first
            windows.append((first, stop))
        yield windows
        done = [stop for _, stop in windows]
