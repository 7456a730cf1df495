"""Intervals of accuracies and paired comparisons of runs. The same numbers give the same figures every time.

`accuracy_interval` is about the questions of one run, `mean_interval` about its seeds, `compare_paired` about two runs
on the same questions. scipy is imported where it is used: importing `scipy.stats` takes a second, and no `--help`
should wait for it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_LEVEL = 0.95
_NUM_SAMPLES = 10_000
_DECIMALS = 12  # further digits are rounding: 1/3 is 1/3 however it was computed
_TINY = 1e-9  # a mean nearer to zero than this is zero
_HALF = 0.5


@dataclass(frozen=True, kw_only=True)
class MeanInterval:
    """`mean` ± `half_width` is the 95 % confidence interval; None for one value, which has no spread."""

    mean: float
    half_width: float | None
    num_values: int


@dataclass(frozen=True, kw_only=True)
class Cells:
    """The number of questions that both runs got right, only one, or neither. With several seeds it is the mean over
    all pairs of a seed of one run and a seed of the other, so it need not be whole."""

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
    mcnemar_p_value: float | None  # exact; None where the seeds of a run disagree about a question


def accuracy_interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of an accuracy, `values` being one number a question: 0 or 1, or its mean over seeds.

    Where every value is 0 or 1 it is Wilson's score interval of a proportion (Wilson 1927; Brown, Cai and DasGupta
    2001, section 3.1.1), which has a width also where all are right or all wrong: 40 of 40 is 0.912 to 1. Otherwise,
    over seeds, it is the percentile interval of the bootstrap (Efron and Tibshirani 1993, section 13.3), which draws
    questions and so keeps the seeds of one question together. `values` must not be empty.
    """
    if all(value in (0, 1) for value in values):
        from scipy.stats import binomtest

        found = binomtest(int(sum(values)), len(values)).proportion_ci(_LEVEL, method="wilson")
        return float(found.low), float(found.high)
    return _middle(_bootstrap_means(values))


def mean_interval(values: Sequence[float]) -> MeanInterval:
    """The mean with Student's interval: mean ± t · s / √n, with s the sample's standard deviation (n - 1) and t the
    97.5 % quantile of Student's distribution with n - 1 degrees of freedom. `values` must not be empty.

    It takes the values as independent draws of something nearly normal. It is not cut off at 0 and 1.
    """
    import numpy as np

    count, mean = len(values), float(np.mean(values))
    if count == 1:
        return MeanInterval(mean=mean, half_width=None, num_values=1)
    from scipy.stats import t

    half_width = float(t.ppf((1 + _LEVEL) / 2, count - 1) * np.std(values, ddof=1) / math.sqrt(count))
    return MeanInterval(mean=mean, half_width=half_width, num_values=count)


def compare_paired(base: Sequence[float], other: Sequence[float]) -> PairedDifference:
    """Compare two runs question by question: `base[i]` and `other[i]` are how right the runs were in question i: 0 or
    1, or the mean of these over seeds. Raises ValueError if they are empty or not of one length.

    Questions are drawn in pairs with replacement, so what makes a question hard for both falls out of the difference.
    The p-value is twice the share of samples on the far side of zero, or on it, counted with the observed one so that
    it is never zero (Davison and Hinkley 1997, chapter 4): the level at which the percentile interval just touches
    zero.
    """
    import numpy as np

    if not base or len(base) != len(other):
        raise ValueError(f"two runs are compared on the same questions: got {len(base)} and {len(other)} of them")
    a, b = np.asarray(base, dtype=np.float64), np.asarray(other, dtype=np.float64)
    means = _bootstrap_means((b - a).tolist())
    tails = (int(np.count_nonzero(means <= _TINY)), int(np.count_nonzero(means >= -_TINY)))
    cells = Cells(
        both=float(a @ b), only_base=float(a @ (1 - b)), only_other=float((1 - a) @ b), neither=float((1 - a) @ (1 - b))
    )
    is_plain = bool(np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all())
    return PairedDifference(
        num_questions=len(base),
        difference=float((b - a).mean()),
        interval=_middle(means),
        p_value=min(1.0, 2 * (1 + min(tails)) / (1 + _NUM_SAMPLES)),
        cells=cells,
        mcnemar_p_value=_mcnemar(round(cells.only_base), round(cells.only_other)) if is_plain else None,
    )


def ids_by_verdict(base: Mapping[str, float], other: Mapping[str, float]) -> dict[tuple[bool, bool], tuple[str, ...]]:
    """The questions of both runs by (right in base, right in other), in their order in `base`. Over seeds, right means
    in more than half of them."""
    found: dict[tuple[bool, bool], list[str]] = {(x, y): [] for x in (True, False) for y in (True, False)}
    for question, value in base.items():
        if question in other:
            found[value > _HALF, other[question] > _HALF].append(question)
    return {verdict: tuple(ids) for verdict, ids in found.items()}


def _mcnemar(only_base: int, only_other: int) -> float:
    """The exact two-sided p-value of McNemar's test: if both runs were equally good, each question that only one got
    right would be either's with probability 1/2 (McNemar 1947, with the binomial distribution for his chi-squared)."""
    from scipy.stats import binomtest

    return float(binomtest(only_base, only_base + only_other).pvalue) if only_base + only_other else 1.0


def _bootstrap_means(values: Sequence[float]) -> "NDArray[np.float64]":
    """The means of _NUM_SAMPLES samples, each of as many values as there are, drawn with replacement.

    To draw n values is to draw how often each different one occurs, which is multinomial: so it takes the time and the
    memory of the few different values, not of the questions (`scipy.stats.bootstrap` draws an index for each).
    """
    import numpy as np

    distinct, counts = np.unique(np.round(np.asarray(values, dtype=np.float64), _DECIMALS), return_counts=True)
    drawn = np.random.default_rng(0).multinomial(len(values), counts / len(values), _NUM_SAMPLES)
    means: NDArray[np.float64] = drawn @ distinct / len(values)
    return means


def _middle(means: "NDArray[np.float64]") -> tuple[float, float]:
    """The bounds of the middle 95 %."""
    import numpy as np

    low, high = np.quantile(means, ((1 - _LEVEL) / 2, (1 + _LEVEL) / 2))
    return float(low), float(high)
