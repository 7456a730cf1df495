"""Convergence of latent thoughts: their cosines, the rule by which a question stops thinking one thought at a time, and
how the thoughts that are left are then computed together.

Dimensions: B rows, N thoughts, E hidden size.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from latentmas_ray.parallel.ranks import Ranks

NUM_STILL = 2  # thoughts in a row that are like the one before end the thinking of a question
MOST_SWEEPS = 4
SETTLED = 1 - 1e-6  # the cosine of a thought in two sweeps from which it counts as the same


def likeness(thoughts_NE: Tensor, before_NE: Tensor) -> Tensor:
    """The cosine of each thought with the one before, [N], in fp32; 0 where one is not finite."""
    return cosine_similarity(thoughts_NE.float(), before_NE.float(), dim=-1).nan_to_num(0.0, 0.0, 0.0)


class StopRule:
    """Says, step by step, which rows still think.

    A row has converged when the cosine of its thought with the one before is at least `threshold` for the `NUM_STILL`th
    time in a row. That thought is not fed any more. Rank 0 decides for all ranks.
    """

    def __init__(self, threshold: float, num_rows: int, ranks: Ranks) -> None:
        self.rows = list(range(num_rows))  # that still think, in order
        self._threshold, self._ranks = threshold, ranks
        self._before_NE: Tensor | None = None
        self._num_alike_N = torch.zeros(0)

    def keep(self, thoughts_NE: Tensor) -> Tensor:
        """Take the next thought of each of `rows`; return those of the rows that go on, which `rows` then are."""
        if self._before_NE is None:
            self._num_alike_N = torch.zeros(len(thoughts_NE), dtype=torch.int64, device=thoughts_NE.device)
        else:
            is_alike_N = likeness(thoughts_NE, self._before_NE) >= self._threshold
            self._num_alike_N = (self._num_alike_N + 1) * is_alike_N
            has_converged = self._ranks.broadcast(self._num_alike_N >= NUM_STILL).tolist()
            if any(has_converged):
                going_on = [index for index, done in enumerate(has_converged) if not done]
                self.rows = [self.rows[index] for index in going_on]
                thoughts_NE, self._num_alike_N = thoughts_NE[going_on], self._num_alike_N[going_on]
        self._before_NE = thoughts_NE
        return thoughts_NE


def cosines_of(thoughts: Sequence[Tensor]) -> list[list[float]]:
    """By row, the cosine of each thought from the second on with the one before; `thoughts` are [B, E], step by step.

    One operation for all steps, and the only wait for the device.
    """
    if len(thoughts) < 2:
        return [[] for _ in (thoughts[0] if thoughts else ())]
    steps_NBE = torch.stack(list(thoughts))
    cosines: list[list[float]] = likeness(steps_NBE[1:], steps_NBE[:-1]).T.tolist()
    return cosines


class Sweeps:
    """The thoughts that are left once a row's thoughts have converged, computed together instead of one after another.

    Thought i + 1 is a function of thought i, so the sequence is the solution of a system of equations, and fixed-point
    iteration over all of it (Jacobi's method; for decoding: Song et al., arXiv 2002.03629) finds it: one forward over
    all thoughts that are left gives the hidden state after each, and so better thoughts for the next forward. The start
    is the first of them, which is exact, everywhere: where thoughts have converged, it is close to all of them. Every
    sweep makes at least one more thought exact. It ends when no thought changes any more, or after `MOST_SWEEPS`. Rank
    0 decides for all ranks.
    """

    def __init__(
        self,
        realign: Callable[[Tensor], Tensor],
        before_BE: Tensor,
        left: Sequence[int],
        dtype: torch.dtype,
        ranks: Ranks,
    ) -> None:
        """`before_BE` are the last hidden states; row b has `left[b]` thoughts to come."""
        self._realign, self._dtype, self._ranks = realign, dtype, ranks
        self._num_done = 0
        first_BE = realign(before_BE).to(dtype)
        self.thoughts = [
            thought_E.expand(count, -1).contiguous() for thought_E, count in zip(first_BE, left, strict=True)
        ]  # the inputs [N, E] of the next forward, by row

    def continue_after(self, hidden: Sequence[Tensor]) -> bool:
        """Take the last hidden states [N, E] after each of `thoughts`. Return whether another forward is needed;
        `thoughts` are then better ones."""
        self._num_done += 1
        better_NE = self._realign(torch.cat([part[:-1] for part in hidden])).to(self._dtype)
        is_settled = torch.zeros(1, dtype=torch.bool)
        if self._num_done < MOST_SWEEPS:
            old_NE = torch.cat([part[1:] for part in self.thoughts])
            is_settled = self._ranks.broadcast((likeness(better_NE, old_NE) >= SETTLED).all().reshape(1))
        if self._num_done == MOST_SWEEPS or bool(is_settled):
            return False
        better = better_NE.split([max(0, len(part) - 1) for part in hidden])
        self.thoughts = [torch.cat([old[:1], new]) for old, new in zip(self.thoughts, better, strict=True)]
        return True


def complete_rows(steps: list[Tensor], rows: Sequence[Tensor], num_steps: int) -> None:
    """Make `steps`, [B, E] step by step, `num_steps` long; its last entries of each row b are `rows[b]`, [N, E]."""
    steps_BNE = torch.stack(steps, dim=1)
    missing_BNE = steps_BNE.new_zeros(len(rows), num_steps - len(steps), steps_BNE.shape[2])
    steps_BNE = torch.cat([steps_BNE, missing_BNE], dim=1)
    for row, part in enumerate(rows):
        steps_BNE[row, num_steps - len(part) :] = part
    steps[:] = steps_BNE.unbind(dim=1)
