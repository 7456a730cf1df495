"""Adoption: how often an answer follows from what one agent was told wrongly (`--memory corrupted`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import ClassVar, Literal

from pydantic import ConfigDict

from latentmas_ray.stats import accuracy_interval
from latentmas_ray.tasks import Grade
from latentmas_ray.tasks.question import Corruption

Outcome = Literal["adopted", "right", "neither"]


@dataclass(frozen=True, kw_only=True)
class Adoption:
    """What became of a wrong version that one agent was given: whether the answer is the one that follows from it
    (`adopted`), the gold (`right`), or `neither`."""

    agent: str
    wrong_gold: str
    outcome: Outcome


@dataclass(frozen=True, kw_only=True)
class AdoptionFigures:
    """How often each outcome was, over the answers of a run, or over questions of several seeds."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(allow_inf_nan=False)

    num_questions: int
    adopted: float  # shares, which add up to 1
    right: float
    neither: float
    adopted_interval: tuple[float, float]  # 95 %, over questions, see `stats.accuracy_interval`
    right_interval: tuple[float, float]


def adoption_of(corruption: Corruption | None, grade: Grade) -> Adoption | None:
    """Return what became of a corruption in a graded answer; None without one."""
    if corruption is None:
        return None
    return Adoption(agent=corruption.agent, wrong_gold=corruption.question.gold or "", outcome=outcome_of(grade))


def outcome_of(grade: Grade) -> Outcome:
    """Return what became of a corruption, by the grade of the answer."""
    return "right" if grade.correct else "adopted" if grade.adopted else "neither"


def adoption_figures(runs: Sequence[Mapping[str, Adoption]]) -> AdoptionFigures | None:
    """Return the figures of a run, or of one run per seed: over the questions of all of them, means over seeds. None if
    no answer has an outcome."""
    shared = [name for name in runs[0] if all(name in run for run in runs)] if runs else []
    if not shared:
        return None
    shares = {
        outcome: [fmean(run[name].outcome == outcome for run in runs) for name in shared]
        for outcome in ("adopted", "right", "neither")
    }
    return AdoptionFigures(
        num_questions=len(shared),
        adopted=fmean(shares["adopted"]),
        right=fmean(shares["right"]),
        neither=fmean(shares["neither"]),
        adopted_interval=accuracy_interval(shares["adopted"]),
        right_interval=accuracy_interval(shares["right"]),
    )
