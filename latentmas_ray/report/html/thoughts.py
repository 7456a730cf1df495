"""The section on latent thoughts, one column per agent: the entropy of the next token, the distance to the nearest
token, and the position among the input embeddings.

One question is drawn in full over a summary of all traced questions. All SVG paths are made here, so the page only
swaps them when another question is chosen.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import fmean, median, quantiles
from typing import TypeVar

from latentmas_ray.engine.diagnostics.trace import Thought
from latentmas_ray.report.html.entries import Member
from latentmas_ray.report.html.figures import NUM_AGENT_COLOURS
from latentmas_ray.report.html.plane import EmbeddingPlane, has_place

_TOP, _BOTTOM = 6, 94  # of a box of 100: lines at its edge would be clipped
_WINDOWS = 4  # the first and the last quarter of the steps are compared
_STEADY = 0.05  # a median that changes by less, relative to its size, is steady

_T = TypeVar("_T")
Paths = Mapping[str, str]  # by part of a picture: entropy, distance, dots, start, end
Values = Sequence[float | None]  # one per thought; None if unknown


@dataclass(frozen=True, kw_only=True)
class Quartiles:
    """The quartiles over several questions at one latent step."""

    low: float
    middle: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Band:
    """One statistic of an agent's thoughts over its latent steps, as paths in a box of 100 by 100."""

    name: str
    title: str
    quartiles: str  # the area between the quartiles of all traced questions
    median: str
    low: str  # the ends of the vertical axis, which all agents of a run share
    high: str


@dataclass(frozen=True, kw_only=True)
class AgentThoughts:
    """The column of one agent."""

    agent: str
    accent: str
    num_thoughts: int
    bands: tuple[Band, ...]
    cloud: str  # thoughts of all traced questions on the plane
    summary: str  # describes the bands in a sentence


@dataclass(frozen=True, kw_only=True)
class ThoughtsPicture:
    """The thoughts of one run."""

    member: Member
    questions: tuple[str, ...]  # those with thoughts
    agents: tuple[AgentThoughts, ...]
    plane: EmbeddingPlane | None  # None if the run has no map of its embeddings
    paths: Mapping[str, Mapping[str, Paths]]  # question -> agent -> part


@dataclass(frozen=True)
class _Statistic:
    """A number that is computed for each thought; None if it is undefined for that thought."""

    name: str
    title: str
    words: str
    of: Callable[[Thought], float | None]


_STATISTICS = (
    _Statistic(
        "entropy",
        "entropy of the next token, nats",
        "the entropy of the next token {} nats",
        lambda thought: thought.entropy if thought.tokens and math.isfinite(thought.entropy) else None,
    ),
    _Statistic(
        "distance",
        "cosine distance to the nearest token",
        "the distance to the nearest token {}",
        lambda thought: thought.distance if thought.is_finite and math.isfinite(thought.distance) else None,
    ),
)


class _Axis:
    """Maps a statistic to heights in a box of 100, with one scale for all agents of a run."""

    def __init__(self, values: Iterable[float | None]) -> None:
        known = [value for value in values if value is not None]
        self.low, self.high = (min(known), max(known)) if known else (0.0, 1.0)

    def line(self, values: Values) -> str:
        """Return the path of values over the steps, with gaps for unknown values."""
        drawn, is_gap = "", True
        for x, value in _across(values):
            if value is not None:
                drawn += f"{'M' if is_gap else 'L'}{x:g} {self._height(value)}"
            is_gap = value is None
        return f"{drawn}H100" if len(values) == 1 and drawn else drawn

    def area(self, columns: Sequence[Quartiles | None]) -> str:
        """Return the path of the area between the quartiles."""
        known = [(x, column) for x, column in _across(columns) if column is not None]
        if len(known) < 2:
            return ""
        edge = [*((x, one.high) for x, one in known), *((x, one.low) for x, one in reversed(known))]
        return "M" + "L".join(f"{x:g} {self._height(value)}" for x, value in edge) + "Z"

    def _height(self, value: float) -> float:
        share = (value - self.low) / ((self.high - self.low) or 1.0)
        return round(_BOTTOM - (_BOTTOM - _TOP) * share, 1)


def make_thoughts_picture(member: Member) -> ThoughtsPicture | None:
    """Return the picture of a run; None if it has no finite thoughts."""
    thinking = {
        question: {name: agent.thoughts for name, agent in trace.agents.items() if any(map(has_place, agent.thoughts))}
        for question, trace in member.run.traces.items()
    }
    thinking = {question: agents for question, agents in thinking.items() if agents}
    if not thinking:
        return None
    thoughts = [*chain.from_iterable(found for agents in thinking.values() for found in agents.values())]
    axes = {statistic.name: _Axis(map(statistic.of, thoughts)) for statistic in _STATISTICS}
    embeddings = member.run.embeddings
    plane = EmbeddingPlane(embeddings, thoughts) if embeddings is not None and embeddings.tokens else None
    names = dict.fromkeys(chain.from_iterable(thinking.values()))
    return ThoughtsPicture(
        member=member,
        questions=tuple(thinking),
        agents=tuple(
            _column(name, index, [agents[name] for agents in thinking.values() if name in agents], axes, plane)
            for index, name in enumerate(names)
        ),
        plane=plane,
        paths={
            question: {name: _paths(found, axes, plane) for name, found in agents.items()}
            for question, agents in thinking.items()
        },
    )


def _column(
    agent: str,
    index: int,
    questions: Sequence[Sequence[Thought]],
    axes: Mapping[str, _Axis],
    plane: EmbeddingPlane | None,
) -> AgentThoughts:
    """Make the column of one agent. `questions` has its thoughts, one sequence per question."""
    num_thoughts = max(map(len, questions))
    quartiles = {statistic.name: _quartiles(questions, statistic, num_thoughts) for statistic in _STATISTICS}
    window = max(num_thoughts // _WINDOWS, 1)
    phrases = [*filter(None, (_describe(statistic, quartiles[statistic.name], window) for statistic in _STATISTICS))]
    span = (
        f"From the first {window} of {num_thoughts} thoughts to the last"
        if window > 1
        else f"Over {num_thoughts} thoughts"
    )
    return AgentThoughts(
        agent=agent,
        accent=f"agent-{index % NUM_AGENT_COLOURS}",
        num_thoughts=num_thoughts,
        bands=tuple(_band(statistic, quartiles[statistic.name], axes[statistic.name]) for statistic in _STATISTICS),
        cloud="" if plane is None else plane.cloud([*chain.from_iterable(questions)]),
        summary=f"{span}, {' and '.join(phrases)}." if phrases else "",
    )


def _band(statistic: _Statistic, quartiles: Sequence[Quartiles | None], axis: _Axis) -> Band:
    return Band(
        name=statistic.name,
        title=statistic.title,
        quartiles=axis.area(quartiles),
        median=axis.line([None if one is None else one.middle for one in quartiles]),
        low=_short(axis.low),
        high=_short(axis.high),
    )


def _quartiles(
    questions: Sequence[Sequence[Thought]], statistic: _Statistic, num_thoughts: int
) -> list[Quartiles | None]:
    """Return the quartiles at each step, over the questions that have a thought there."""
    found: list[Quartiles | None] = []
    for step in range(num_thoughts):
        at_step = (statistic.of(thoughts[step]) for thoughts in questions if step < len(thoughts))
        values = [value for value in at_step if value is not None]
        low, middle, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else (values or [0.0]) * 3
        found.append(Quartiles(low=low, middle=middle, high=high) if values else None)
    return found


def _describe(statistic: _Statistic, quartiles: Sequence[Quartiles | None], window: int) -> str:
    """Describe how the median changes from the first `window` thoughts to the last; empty for fewer than two."""
    known = [one for one in quartiles if one is not None]
    if len(known) < 2:
        return ""
    middles = [one.middle for one in known]
    first, last = fmean(middles[:window]), fmean(middles[-window:])
    usual_width = fmean(one.high - one.low for one in known)
    if abs(last - first) <= max(usual_width / 2, _STEADY * max(abs(first), abs(last))):
        return statistic.words.format(f"stays near {_short(median(middles))}")
    verb = "falls" if last < first else "rises"
    return statistic.words.format(f"{verb} from {_short(first)} to {_short(last)}")


def _short(value: float) -> str:
    """Format with at most two decimals: `0`, `0.61`, `4.5`."""
    return f"{round(value, 2):g}"


def _paths(thoughts: Sequence[Thought], axes: Mapping[str, _Axis], plane: EmbeddingPlane | None) -> Paths:
    lines = {statistic.name: axes[statistic.name].line([*map(statistic.of, thoughts)]) for statistic in _STATISTICS}
    return lines | ({} if plane is None else plane.paths(thoughts))


def _across(values: Sequence[_T]) -> Iterator[tuple[float, _T]]:
    """Return each value with its horizontal position in the box."""
    last = max(len(values) - 1, 1)
    return ((round(100 * step / last, 1), value) for step, value in enumerate(values))
