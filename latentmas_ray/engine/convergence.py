"""Convergence of latent thoughts: their cosines, and the rule by which a question stops thinking.

Dimensions: N thoughts, of as many rows; E hidden size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from latentmas_ray.parallel.ranks import Ranks

NUM_STILL = 2  # thoughts in a row that are like the one before end the thinking of a question


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
