"""A mean over a few repetitions, such as seeds, and how far off it may be."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

_LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class MeanInterval:
    """`mean` ± `half_width` is the 95 % confidence interval; None where one value alone tells nothing of it."""

    mean: float
    half_width: float | None
    num_values: int


def mean_interval(values: Sequence[float]) -> MeanInterval:
    """The mean with Student's interval: mean ± t · s / √n, with s the sample's standard deviation (n - 1) and t the
    97.5 % quantile of Student's distribution with n - 1 degrees of freedom. `values` must not be empty.

    It takes the values as independent draws of something nearly normal. It is not cut off at 0 and 1.
    """
    count = len(values)
    if count == 1:
        return MeanInterval(mean=float(values[0]), half_width=None, num_values=1)
    half_width = student_quantile((1 + _LEVEL) / 2, count - 1) * stdev(values) / math.sqrt(count)
    return MeanInterval(mean=fmean(values), half_width=half_width, num_values=count)


def student_quantile(probability: float, degrees: int) -> float:
    """The t below which Student's distribution with so many degrees of freedom has this probability, 0.5 to 1."""
    low, high = 0.0, 1.0
    while _central(high, degrees) < 2 * probability - 1:
        high *= 2
    while (between := (low + high) / 2) not in (low, high):
        if _central(between, degrees) < 2 * probability - 1:
            low = between
        else:
            high = between
    return high


def _central(t: float, degrees: int) -> float:
    """The probability between -t and t: the finite sums of Abramowitz and Stegun 1964, 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    is_odd = degrees % 2
    term, total = (cosine, 0.0) if is_odd else (1.0, 0.0)
    for divisor in range(2 + is_odd, degrees + 1, 2):
        total += term
        term *= (divisor - 1) / divisor * cosine * cosine
    return 2 / math.pi * (angle + sine * total) if is_odd else sine * total
