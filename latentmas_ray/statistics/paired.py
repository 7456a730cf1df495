"""Two runs on the same questions: how much better one is, and whether that may be luck."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from latentmas_ray.statistics.bootstrap import NUM_SAMPLES, bootstrap_means, middle

_TINY = 1e-9  # a mean that is nearer to zero is zero


@dataclass(frozen=True, kw_only=True)
class Cells:
    """In how many questions who was right. Where questions were answered with several seeds, the mean over all pairs of
    a seed of one run and a seed of the other, so no whole numbers."""

    both: float
    only_base: float
    only_other: float
    neither: float


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """How much better the other run is than the base, on the questions of both."""

    num_questions: int
    difference: float  # of the accuracies, other - base
    interval: tuple[float, float]  # 95 %, by the paired bootstrap
    p_value: float  # two-sided, of the paired bootstrap
    cells: Cells
    mcnemar_p_value: float | None  # exact; None where seeds of one run differ in a question


def compare_paired(base: Sequence[float], other: Sequence[float]) -> PairedDifference:
    """Compare two runs question by question: `base[i]` and `other[i]` are how right the runs were in question i: 0 or
    1, or the mean of these over seeds. Raises ValueError if they are empty or not of one length.

    Questions are drawn in pairs with replacement, so what makes a question hard for both falls out of the difference.
    The p-value is twice the share of samples on the far side of zero, or on it, counted with the observed one so that
    it is never zero (Davison and Hinkley 1997, chapter 4): the level at which the percentile interval just touches
    zero.
    """
    if not base or len(base) != len(other):
        raise ValueError(f"two runs are compared on the same questions: got {len(base)} and {len(other)} of them")
    a, b = np.asarray(base, dtype=np.float64), np.asarray(other, dtype=np.float64)
    means = bootstrap_means((b - a).tolist())
    tails = (int(np.count_nonzero(means <= _TINY)), int(np.count_nonzero(means >= -_TINY)))
    cells = Cells(
        both=float(a @ b), only_base=float(a @ (1 - b)), only_other=float((1 - a) @ b), neither=float((1 - a) @ (1 - b))
    )
    is_plain = bool(np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all())
    return PairedDifference(
        num_questions=len(base),
        difference=float((b - a).mean()),
        interval=middle(means),
        p_value=min(1.0, 2 * (1 + min(tails)) / (1 + NUM_SAMPLES)),
        cells=cells,
        mcnemar_p_value=mcnemar(round(cells.only_base), round(cells.only_other)) if is_plain else None,
    )


def mcnemar(only_base: int, only_other: int) -> float:
    """The exact two-sided p-value of McNemar's test: if both runs were equally good, each question that only one got
    right would be either's with probability 1/2 (McNemar 1947, with the binomial distribution for his chi-squared)."""
    count = only_base + only_other
    tail = sum(math.comb(count, k) for k in range(min(only_base, only_other) + 1))
    p_value: float = 2 * tail / 2**count
    return min(1.0, p_value)
