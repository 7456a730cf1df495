"""The bootstrap: what a mean could have been with other questions of the same kind."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

NUM_SAMPLES = 10_000
_TAILS = (0.025, 0.975)
_DECIMALS = 12  # beyond them differences are rounding: 1/3 is 1/3 however it was computed


def bootstrap_means(values: Sequence[float]) -> NDArray[np.float64]:
    """The means of NUM_SAMPLES samples, each of as many values as there are, drawn with replacement; the same ones
    every time. `values` must not be empty.

    To draw n values is to draw how often each different one comes up, which a multinomial distribution tells.
    """
    distinct, counts = np.unique(np.round(np.asarray(values, dtype=np.float64), _DECIMALS), return_counts=True)
    drawn = np.random.default_rng(0).multinomial(len(values), counts / len(values), NUM_SAMPLES)
    means: NDArray[np.float64] = drawn @ distinct / len(values)
    return means


def bootstrap_interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % percentile interval of the mean (Efron and Tibshirani 1993, section 13.3).

    `values` has one value a question: right or wrong, or its mean over seeds. Questions are what is drawn.
    """
    return middle(bootstrap_means(values))


def middle(means: NDArray[np.float64]) -> tuple[float, float]:
    """Between which bounds the middle 95 % lie."""
    low, high = np.quantile(means, _TAILS)
    return float(low), float(high)
