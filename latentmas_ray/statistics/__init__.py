"""Intervals and comparisons of accuracies. Needs numpy only; the same numbers give the same figures every time.

`bootstrap_interval` is about the questions of one run, `mean_interval` about its seeds, `compare_paired` about two runs
on the same questions.
"""

from latentmas_ray.statistics.bootstrap import bootstrap_interval
from latentmas_ray.statistics.paired import Cells, PairedDifference, compare_paired, mcnemar
from latentmas_ray.statistics.student import MeanInterval, mean_interval, student_quantile

__all__ = [
    "Cells",
    "MeanInterval",
    "PairedDifference",
    "bootstrap_interval",
    "compare_paired",
    "mcnemar",
    "mean_interval",
    "student_quantile",
]
