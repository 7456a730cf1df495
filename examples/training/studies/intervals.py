"""Intervals over seeds and over questions, by the project's statistics (`latentmas_ray/stats.py`).

A cell keeps a question's verdicts as a string of 0 and 1 (`pack_verdicts`). Two settings are compared twice: over their
common seeds, each of which has the same first weights and data order, and over questions, each of which has the mean
over seeds. The first says whether another training would show the same, the second whether other questions would.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from latentmas_ray.errors import ConfigError
from latentmas_ray.stats import MeanInterval, PairedDifference, accuracy_interval, compare_paired, mean_interval


@dataclass(frozen=True, kw_only=True)
class SeedDifference:
    """Another setting minus a base one: over their common seeds, and over the questions of both."""

    over_seeds: MeanInterval
    over_questions: PairedDifference


def pack_verdicts(verdicts: Iterable[bool]) -> str:
    """Return one character for each question: 1 for a right answer."""
    return "".join("1" if one else "0" for one in verdicts)


def accuracy_of(verdicts: str) -> float:
    """Return the share of right answers of packed verdicts, which must not be empty."""
    return verdicts.count("1") / len(verdicts)


def mean_verdicts(seeds: Sequence[str]) -> list[float]:
    """Return each question's mean over the seeds' verdicts. Raises ValueError if they are of different questions."""
    if len({len(one) for one in seeds}) != 1:
        raise ValueError(f"seeds have different numbers of questions: {sorted({len(one) for one in seeds})}")
    return [sum(one[index] == "1" for one in seeds) / len(seeds) for index in range(len(seeds[0]))]


def accuracy_over_seeds(seeds: Mapping[int, str]) -> MeanInterval:
    """Return the mean accuracy with Student's interval over the seeds, which must not be empty."""
    return mean_interval([accuracy_of(verdicts) for verdicts in seeds.values()])


def accuracy_over_questions(seeds: Mapping[int, str]) -> tuple[float, float]:
    """Return the 95 % interval of the mean accuracy over the questions: for these seeds, with other questions."""
    return accuracy_interval(mean_verdicts(list(seeds.values())))


def difference(base: Mapping[int, str], other: Mapping[int, str]) -> SeedDifference:
    """Compare two settings by their seeds' verdicts on the same questions.

    Raises ConfigError if they have no seed in common, ValueError if their questions differ in number.
    """
    common = sorted(base.keys() & other.keys())
    if not common:
        raise ConfigError("seeds", sorted(base.keys() | other.keys()), "both settings must have a seed in common")
    differences = [accuracy_of(other[seed]) - accuracy_of(base[seed]) for seed in common]
    return SeedDifference(
        over_seeds=mean_interval(differences),
        over_questions=compare_paired(
            mean_verdicts([base[seed] for seed in common]), mean_verdicts([other[seed] for seed in common])
        ),
    )


def percent(value: float) -> str:
    """Return a share as a number of percent with one decimal."""
    return f"{100 * value:.1f}"


def percent_interval(interval: MeanInterval, *, signed: bool = False) -> str:
    """Return `12.3 ± 4.5` in percent; without the half width for one seed."""
    mean = f"{100 * interval.mean:+.1f}" if signed else percent(interval.mean)
    return mean if interval.half_width is None else f"{mean} ± {percent(interval.half_width)}"


def percent_range(interval: tuple[float, float]) -> str:
    """Return `[1.2, 3.4]` in percent."""
    return f"[{percent(interval[0])}, {percent(interval[1])}]"
