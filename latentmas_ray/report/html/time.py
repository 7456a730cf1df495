"""The sections on time: the seconds of each phase of each agent's turn, and when each turn ran."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from latentmas_ray.report.html.entries import Entry, Group
from latentmas_ray.report.html.figures import Figure, seconds
from latentmas_ray.report.timeline import TimelinePicture, make_pictures

_MAX_STRIPS = 3  # of a timeline: latentmas timeline draws more
PHASES = ("wait", "absorb", "prefill", "think", "decode", "emit")


@dataclass(frozen=True, kw_only=True)
class PhaseShare:
    """One phase of an agent's turn."""

    phase: str
    seconds: Figure
    width: float  # in percent of the longest turn of the group


@dataclass(frozen=True, kw_only=True)
class AgentTime:
    """The phases of one agent."""

    agent: str
    parts: tuple[PhaseShare, ...]
    total: Figure


@dataclass(frozen=True, kw_only=True)
class RunTime:
    """The agents of one run."""

    entry: Entry
    agents: tuple[AgentTime, ...]
    layouts: tuple[str, ...]  # predicted and reached, of each run whose layout was searched


@dataclass(frozen=True, kw_only=True)
class TimeChart:
    """The runs of a group, on one scale."""

    group: Group
    runs: tuple[RunTime, ...]
    phases: tuple[str, ...]  # those that took time


@dataclass(frozen=True, kw_only=True)
class EntryTimeline:
    """When the turns of one run ran; of several seeds, those of the first."""

    group: Group
    entry: Entry
    pictures: tuple[TimelinePicture, ...]


def make_entry_timelines(groups: Sequence[Group]) -> Iterator[EntryTimeline]:
    """Yield the timelines of the runs that recorded their times. Of a run that was started several times the start with
    the most turns is drawn."""
    for group in groups:
        for entry in group.entries:
            if (timeline := entry.runs[0].timeline) is None or not timeline.starts:
                continue
            longest = max(timeline.starts, key=lambda start: len(start.turns))
            if pictures := make_pictures(replace(timeline, starts=(longest,)), max_strips=_MAX_STRIPS):
                yield EntryTimeline(group=group, entry=entry, pictures=pictures)


def make_time_chart(group: Group) -> TimeChart | None:
    """Return the bars of a group; None if no run has times."""
    longest = max((_total(entry, agent) for entry in group.entries for agent in entry.summary.agents), default=0.0)
    if not longest:
        return None
    runs = tuple(
        RunTime(
            entry=entry,
            agents=tuple(_agent(entry, agent, longest) for agent in entry.summary.agents),
            layouts=tuple(_layouts(entry)),
        )
        for entry in group.entries
        if entry.summary.agents
    )
    parts = [part for run in runs for agent in run.agents for part in agent.parts]
    shown = tuple(phase for phase in PHASES if any(part.phase == phase for part in parts))
    return TimeChart(group=group, runs=runs, phases=shown)


def _layouts(entry: Entry) -> Iterator[str]:
    for run in entry.runs:
        if run.summary is not None and (speed := run.summary.layout_speed) is not None:
            yield f"layout {speed.layout}, bound by {speed.bound_by}: {speed.describe()}"


def _agent(entry: Entry, agent: str, longest: float) -> AgentTime:
    figures = entry.summary.agents[agent]
    total = _total(entry, agent)
    return AgentTime(
        agent=agent,
        total=Figure(value=total, text=seconds(total)),
        parts=tuple(
            PhaseShare(
                phase=phase,
                seconds=entry.detail(f"agents.{agent}.{phase}_seconds", seconds),
                width=round(100 * value / longest, 3),
            )
            for phase in PHASES
            if (value := figures.get(f"{phase}_seconds", 0.0)) > 0
        ),
    )


def _total(entry: Entry, agent: str) -> float:
    figures = entry.summary.agents[agent]
    return sum(figures.get(f"{phase}_seconds", 0.0) for phase in PHASES)
