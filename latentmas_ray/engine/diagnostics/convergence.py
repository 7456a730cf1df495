"""How thoughts converge: the cosine of each thought with the one before. Plain data: no torch.

Steps count from 0, like the steps of alarms: a thought of step 6 that repeats is the seventh, and six thoughts differ.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from statistics import fmean, median
from typing import Any, ClassVar

from pydantic import ConfigDict

from latentmas_ray.engine.diagnostics.alarms import LIMITS, AlarmThresholds

_DIGITS = 4
_MANY = 20  # told from more than one question in so many on


@dataclass(frozen=True, kw_only=True)
class ThoughtConvergence:
    """How one agent's thoughts on one question converged. Raises ValueError for more cosines than there can be."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(allow_inf_nan=False)  # for rows that are read from files

    thoughts: int
    steps: int  # forwards that computed them: fewer, if some thoughts were computed together
    allowed_steps: int | None = None  # at most so many, where it may stop earlier
    short_cosines: tuple[float, ...] = ()  # `cosines` without the ones at their end

    def __post_init__(self) -> None:
        if len(self.short_cosines) > max(0, self.thoughts - 1):
            raise ValueError(f"{len(self.short_cosines)} cosines of {self.thoughts} thoughts")

    @classmethod
    def of(
        cls, cosines: Sequence[float], *, thoughts: int, steps: int, allowed_steps: int | None = None
    ) -> "ThoughtConvergence":
        """Make it from the cosine of each thought from step 1 on with the one before."""
        rounded = [round(cosine, _DIGITS) for cosine in cosines]
        while rounded and rounded[-1] == 1.0:
            rounded.pop()
        return cls(thoughts=thoughts, steps=steps, allowed_steps=allowed_steps, short_cosines=tuple(rounded))

    @cached_property
    def cosines(self) -> tuple[float, ...]:
        """The cosine of each thought from step 1 on with the one before, to four digits."""
        return self.short_cosines + (1.0,) * (max(0, self.thoughts - 1) - len(self.short_cosines))

    @property
    def last_cosine(self) -> float | None:
        """The cosine of the last thought with the one before; None for fewer than two thoughts."""
        return self.cosines[-1] if self.cosines else None

    def repeats_from(self, limits: AlarmThresholds = LIMITS) -> int | None:
        """The first step from which every thought is like the one before; None if the last is not."""
        step = len(self.cosines)
        while step and self.cosines[step - 1] >= limits.likeness:
            step -= 1
        return None if step == len(self.cosines) else step + 1

    def is_repeating(self, limits: AlarmThresholds = LIMITS) -> bool:
        """Whether as many thoughts as are an alarm repeat, up to the last. Thoughts that were computed together do not
        count."""
        first = self.repeats_from(limits)
        return first is not None and self.steps == self.thoughts and self.thoughts - first >= limits.num_alike

    def to_row(self) -> dict[str, Any]:
        """As an object of JSON, without the number of steps."""
        allowed = {} if self.allowed_steps is None else {"allowed_steps": self.allowed_steps, "thoughts": self.thoughts}
        told = {"repeats_from": self.repeats_from(), "last_cosine": self.last_cosine}
        return {**allowed, **told, "cosines": list(self.short_cosines)}


@dataclass(frozen=True, kw_only=True)
class ConvergenceStats:
    """How one agent's thoughts converged, over questions."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(allow_inf_nan=False)

    num_questions: int
    num_repeating: int  # questions whose thoughts repeat so often that it is an alarm
    repeats_from: float | None  # the step from which those repeat: their median
    last_cosine: float | None  # mean of the last thought's
    mean_cosines: tuple[float, ...]  # by step, from step 1 on: mean over the questions that have a thought there
    thoughts: float  # mean
    steps: float  # mean of the forwards that computed them
    allowed_steps: float | None = None  # mean of the most that were allowed, where questions may stop earlier

    @classmethod
    def of(cls, found: Sequence[ThoughtConvergence]) -> "ConvergenceStats":
        """Compute it from at least one question."""
        steps = [one.repeats_from() for one in found if one.is_repeating()]
        repeating = [step for step in steps if step is not None]
        lasts = [one.last_cosine for one in found if one.last_cosine is not None]
        allowed = [one.allowed_steps for one in found if one.allowed_steps is not None]
        columns = zip_longest(*(one.cosines for one in found))
        return cls(
            num_questions=len(found),
            num_repeating=len(repeating),
            repeats_from=median(repeating) if repeating else None,
            last_cosine=round(fmean(lasts), _DIGITS) if lasts else None,
            mean_cosines=tuple(
                round(fmean(value for value in column if value is not None), _DIGITS) for column in columns
            ),
            thoughts=fmean(one.thoughts for one in found),
            steps=fmean(one.steps for one in found),
            allowed_steps=fmean(allowed) if allowed else None,
        )


def describe_repeating(by_agent: Mapping[str, ConvergenceStats]) -> str:
    """Return `thoughts of planner repeat from step 6 on (9 of 12 questions), …`; empty if no agent's thoughts repeat on
    more than one question in twenty."""
    named = [
        f"of {name} repeat from step {stats.repeats_from:.0f} on ({stats.num_repeating} of {stats.num_questions} "
        f"{'question' if stats.num_questions == 1 else 'questions'})"
        for name, stats in by_agent.items()
        if stats.repeats_from is not None and stats.num_repeating * _MANY > stats.num_questions
    ]
    return f"thoughts {', '.join(named)}" if named else ""
