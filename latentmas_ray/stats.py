"""Confidence intervals and paired comparisons of runs. Deterministic: the same values give the same result.

`accuracy_interval`: over the questions of one run. `mean_interval`: over its seeds. `compare_paired`: two runs on the
same questions. scipy is imported inside functions: importing `scipy.stats` takes a second, which `--help` should not
pay.
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
_DECIMALS = 12  # further digits are rounding error, so that 1/3 is the same value however it was computed
_TINY = 1e-9  # means closer to zero than this count as zero
_HALF = 0.5


@dataclass(frozen=True, kw_only=True)
class MeanInterval:
    """A 95 % confidence interval, `mean` ± `half_width`. `half_width` is None for one value, which has no spread."""

    mean: float
    half_width: float | None
    num_values: int


@dataclass(frozen=True, kw_only=True)
class Cells:
    """The number of questions that both runs, only one, or neither answered correctly.

    With several seeds: the mean over all pairs of a seed of one run and a seed of the other, so not always whole.
    """

    both: float
    only_base: float
    only_other: float
    neither: float


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """The difference in accuracy between another run and a base run, on the questions of both."""

    num_questions: int
    difference: float  # of the accuracies, other - base
    interval: tuple[float, float]  # 95 %, by the paired bootstrap
    p_value: float  # two-sided, of the paired bootstrap
    cells: Cells
    mcnemar_p_value: float | None  # exact; None if the seeds of a run disagree about a question


def accuracy_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of an accuracy. `values` has one number per question: 0 or 1, or the mean over seeds.

    If every value is 0 or 1: Wilson's score interval of a proportion (Wilson 1927; Brown, Cai and DasGupta 2001,
    section 3.1.1), which has a width even when all answers are right or all are wrong: 40 of 40 gives 0.912 to 1.
    Otherwise: the percentile interval of the bootstrap (Efron and Tibshirani 1993, section 13.3), which resamples
    questions and so keeps the seeds of one question together. `values` must not be empty.
    """
    if all(value in (0, 1) for value in values):
        from scipy.stats import binomtest

        found = binomtest(int(sum(values)), len(values)).proportion_ci(_LEVEL, method="wilson")
        return float(found.low), float(found.high)
    return _middle(_bootstrap_means(values))


def mean_interval(values: Sequence[float]) -> MeanInterval:
    """Return the mean with Student's interval: mean ± t · s / √n, with s the sample's standard deviation (n - 1) and t
    the 97.5 % quantile of Student's distribution with n - 1 degrees of freedom. `values` must not be empty.

    Assumes independent, nearly normal values. The interval is not clipped to [0, 1].
    """
    import numpy as np

    count, mean = len(values), float(np.mean(values))
    if count == 1:
        return MeanInterval(mean=mean, half_width=None, num_values=1)
    from scipy.stats import t

    half_width = float(t.ppf((1 + _LEVEL) / 2, count - 1) * np.std(values, ddof=1) / math.sqrt(count))
    return MeanInterval(mean=mean, half_width=half_width, num_values=count)


def compare_paired(base: Sequence[float], other: Sequence[float]) -> PairedDifference:
    """Compare two runs question by question. `base[i]` and `other[i]` are the runs' scores on question i: 0 or 1, or
    the mean over seeds. Raises ValueError if they are empty or of different lengths.

    The bootstrap resamples questions, so the difficulty that both runs share cancels in the difference. The p-value is
    twice the share of samples at or beyond zero, with the observed sample counted too, so it is never zero (Davison and
    Hinkley 1997, chapter 4). It is the level at which the percentile interval just touches zero.
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
    """Group the questions of both runs by (correct in base, correct in other), in their order in `base`. Over seeds,
    correct means in more than half of them."""
    found: dict[tuple[bool, bool], list[str]] = {(x, y): [] for x in (True, False) for y in (True, False)}
    for question, value in base.items():
        if question in other:
            found[value > _HALF, other[question] > _HALF].append(question)
    return {verdict: tuple(ids) for verdict, ids in found.items()}


def _mcnemar(only_base: int, only_other: int) -> float:
    """Return the exact two-sided p-value of McNemar's test. If both runs were equally good, a question that only one
    answered correctly would belong to either with probability 1/2 (McNemar 1947, binomial instead of chi-squared)."""
    from scipy.stats import binomtest

    return float(binomtest(only_base, only_base + only_other).pvalue) if only_base + only_other else 1.0


def _bootstrap_means(values: Sequence[float]) -> "NDArray[np.float64]":
    """Return the means of _NUM_SAMPLES bootstrap samples, each of `len(values)` values drawn with replacement.

    Draws how often each distinct value occurs (multinomial), so time and memory depend on the few distinct values and
    not on the number of questions; `scipy.stats.bootstrap` draws an index for each.
    """
    import numpy as np

    distinct, counts = np.unique(np.round(np.asarray(values, dtype=np.float64), _DECIMALS), return_counts=True)
    drawn = np.random.default_rng(0).multinomial(len(values), counts / len(values), _NUM_SAMPLES)
    means: NDArray[np.float64] = drawn @ distinct / len(values)
    return means


def _middle(means: "NDArray[np.float64]") -> tuple[float, float]:
    """Return the bounds of the middle 95 % of `means`."""
    import numpy as np

    low, high = np.quantile(means, ((1 - _LEVEL) / 2, (1 + _LEVEL) / 2))
    return float(low), float(high)
