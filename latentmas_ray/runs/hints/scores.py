"""The figures of a run with m hints for each question and k answers with each hint (RLAD, arXiv 2510.02263).

With a_{zj} = 1 if answer j with hint z is right, else 0, of one question:

average      1/(mk) Σ_z Σ_j a_{zj}: what a hint is worth that was not chosen
best hint    max_z 1/k Σ_j a_{zj}: of an oracle that knows which hint is the best one
best answer  max_{z,j} a_{zj}: of an oracle that knows which answer is right
voted        1 if the majority of all mk answers is right: of what can be had without an oracle

each a mean over questions. The two oracles gain from the number of tries alone, so they are compared with the same
figures of as many answers without a hint (memory none), which are in as many groups.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from pydantic import ConfigDict

from latentmas_ray.config import HintSource

ScoreName = Literal["average", "best hint", "best answer", "voted"]
SCORES: tuple[ScoreName, ...] = get_args(ScoreName)
Scores = Mapping[ScoreName, float]  # of one question


@dataclass(frozen=True, kw_only=True)
class HintScores:
    """The means over questions, with their 95 % intervals (`stats.accuracy_interval`)."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(allow_inf_nan=False)

    num_questions: int
    shares: Mapping[ScoreName, float]  # without `voted` for answers that cannot be compared, which are programs
    intervals: Mapping[ScoreName, tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class HintFigures:
    """The figures of a run. Hints that leak are part of `scores`; `without_leaks` leaves them out, and the questions of
    which no hint is left."""

    source: HintSource
    num_hints: int  # of each question: m
    num_answers: int  # with each hint: k
    scores: HintScores
    num_read: int  # hints in words, in which a leak can be found
    num_leaks: int
    without_leaks: HintScores | None = None  # None if no hint leaks, or none is left
