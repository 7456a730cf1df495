"""The timeline as data of a picture: strips of lanes with their bars, arrows and marks, in percent and pixels."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from latentmas_ray.engine.turn import PhaseName
from latentmas_ray.report.timeline.lanes import HERE, Chart, Lane, busy_times, make_chart
from latentmas_ray.report.timeline.strips import Strip, make_overview, make_strip
from latentmas_ray.report.timeline.windows import choose_windows
from latentmas_ray.runs.timeline import RunTimeline, StartTimeline
from latentmas_ray.runs.timeline.rows import LostTurnRow
from latentmas_ray.units import format_bytes, format_seconds

MAX_LANES = 64
_MAX_EVENTS = 40
_NODE_EVENTS = {"node_joined": "joined", "node_lost": "did not answer any more", "node_draining": "will leave"}
_AGREES_SECONDS = 0.0005
_LOOSE = 0.05  # of the run: a clock that is known so badly is named


@dataclass(frozen=True, kw_only=True)
class RouteLine:
    """All hand-overs from one agent to another by one way."""

    source: str
    reader: str
    route: str  # link and transport
    count: int
    num_bytes: str  # of one, on average
    moved_bytes: str


@dataclass(frozen=True, kw_only=True)
class EventLine:
    """A replica or a node that came or went, or a turn that was lost."""

    at: str  # since the start of the picture
    what: str
    reason: str
    is_fault: bool


@dataclass(frozen=True, kw_only=True)
class TimelinePicture:
    """One start of a run."""

    title: str
    headline: str
    phases: tuple[PhaseName, ...]  # that occur
    overview: Strip | None  # if the strips do not show the whole start
    strips: tuple[Strip, ...]
    routes: tuple[RouteLine, ...]
    events: tuple[EventLine, ...]
    notes: tuple[str, ...]


def make_pictures(timeline: RunTimeline, *, max_strips: int = 8) -> tuple[TimelinePicture, ...]:
    """Return one picture for each start in which a turn finished."""
    charts = [(start, make_chart(start)) for start in timeline.starts]
    drawn = [(start, chart) for start, chart in charts if chart is not None]
    return tuple(
        _picture(start, chart, f"start {number} of {len(drawn)}" if len(drawn) > 1 else "", max_strips)
        for number, (start, chart) in enumerate(drawn, start=1)
    )


def _picture(start: StartTimeline, chart: Chart, title: str, max_strips: int) -> TimelinePicture:
    windows = choose_windows(chart, max_strips)
    shown = _shown_lanes(chart)
    numbers = _numbers(chart)
    is_whole = len(windows) == 1 and windows[0].seconds >= chart.end - chart.begin
    phases = Counter(phase for lane in chart.lanes for bar in lane.bars for phase, _, _ in bar.spans)
    order: tuple[PhaseName, ...] = ("wait", "absorb", "prefill", "think", "emit", "decode")
    events = tuple(_events(start, chart))
    more = f"{len(events) - _MAX_EVENTS} further events are only in the trace file."
    return TimelinePicture(
        title=title,
        headline=_headline(chart),
        phases=tuple(phase for phase in order if phases[phase]),
        overview=None if is_whole else make_overview(chart, shown),
        strips=tuple(make_strip(chart, shown, window, numbers) for window in windows),
        routes=tuple(_routes(chart)),
        events=events[:_MAX_EVENTS],
        notes=(*_notes(start, chart), *([more] if len(events) > _MAX_EVENTS else [])),
    )


def _shown_lanes(chart: Chart) -> list[Lane]:
    """Return as many lanes as a page can show, in their order: those whose replica was lost, then as many of every
    agent."""
    if len(chart.lanes) <= MAX_LANES:
        return [*chart.lanes]
    lost = {fault.replica for fault in chart.faults}
    place: Counter[tuple[str, ...]] = Counter()
    ranked: list[tuple[bool, int, int]] = []
    for number, lane in enumerate(chart.lanes):
        place[lane.agents] += 1
        ranked.append((lane.name not in lost, place[lane.agents], number))
    return [chart.lanes[number] for number in sorted(number for *_, number in sorted(ranked)[:MAX_LANES])]


def _numbers(chart: Chart) -> dict[str, int]:
    """Number the batches, or the questions that are written for themselves, in the order of their first turns."""
    numbers: dict[str, int] = {}
    count = 0
    for bar in sorted((bar for lane in chart.lanes for bar in lane.bars), key=lambda bar: bar.begin):
        known = next((numbers[name] for name in bar.questions if name in numbers), None)
        count += known is None
        number = count if known is None else known
        for name in bar.questions:
            numbers.setdefault(name, number)
    return numbers


def _headline(chart: Chart) -> str:
    seconds = chart.end - chart.begin
    busy = [sum(end - begin for begin, end in busy_times(lane)) for lane in chart.lanes]
    mean = sum(busy) / seconds if seconds else 0.0
    lanes = "replica" if len(busy) == 1 else "replicas"
    text = f"{format_seconds(seconds)}, {len(busy)} {lanes}; on average {mean:.1f} of them computed at the same time."
    if chart.faults:
        text += f" {len(chart.faults)} {'replica was' if len(chart.faults) == 1 else 'replicas were'} lost."
    return text


def _routes(chart: Chart) -> Iterator[RouteLine]:
    found: dict[tuple[str, str, str], list[tuple[int, int]]] = {}
    for arrow in chart.arrows:
        read = arrow.read
        route = f"{read.link.replace('_', ' ')}, {read.transport}" + ("" if read.codec == "none" else f", {read.codec}")
        key = read.source, arrow.reader.turn.agent, route
        found.setdefault(key, []).append((read.num_bytes, read.moved_bytes))
    for (source, reader, route), sizes in found.items():
        yield RouteLine(
            source=source,
            reader=reader,
            route=route,
            count=len(sizes),
            num_bytes=format_bytes(round(sum(size for size, _ in sizes) / len(sizes))),
            moved_bytes=format_bytes(sum(moved for _, moved in sizes)),
        )


def _events(start: StartTimeline, chart: Chart) -> Iterator[EventLine]:
    lines: list[tuple[float, str, str, bool]] = []
    lost_names: set[str] = set()
    for row in start.replicas:
        if row.event == "replica_lost":
            lines.append((row.at, f"replica {row.replica} was lost", row.reason, True))
            lost_names.add(row.replica)
        elif row.replica in lost_names:
            lines.append((row.at, f"replica {row.replica} was ready again", "", False))
    alike: dict[tuple[str, str, int], list[LostTurnRow]] = {}
    for lost in start.lost_turns:  # what was lost at the same moment, for the same reason
        alike.setdefault((lost.agent, lost.reason, round(lost.at)), []).append(lost)
    for (agent, reason, _), group in alike.items():
        names = _some([name for lost in group for name in lost.questions])
        turns = (
            f"a turn of {agent} ({names}) was" if len(group) == 1 else f"{len(group)} turns of {agent} ({names}) were"
        )
        lines.append((group[0].at, f"{turns} lost and repeated", reason, True))
    for node in start.nodes:
        what = _NODE_EVENTS[node.event]
        is_fault = node.event == "node_lost"
        lines.append((node.at, f"{chart.node_names[node.node]} {what}", node.reason, is_fault))
    for question in start.questions:
        if question.event == "failed":
            lines.append((question.at, f"question {question.question} failed", question.reason, True))
    for at, what, reason, is_fault in sorted(lines, key=lambda line: line[0]):
        yield EventLine(at=format_seconds(max(0.0, at - chart.begin)), what=what, reason=reason, is_fault=is_fault)


def _some(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} questions" if names else "no question"


def _notes(start: StartTimeline, chart: Chart) -> Iterator[str]:
    for node, clock in start.clocks.items():
        name = chart.node_names[node] if node else HERE
        error = format_seconds(clock.error)
        if not clock.is_consistent:
            yield f"The clock of {name} was changed during the run, so its times may be wrong by {error}."
        elif abs(clock.shift) > _AGREES_SECONDS:
            moved = format_seconds(abs(clock.shift))
            which = "ahead of" if clock.shift < 0 else "behind"
            yield f"The clock of {name} is {moved} {which} the driver's. Its times are moved, and right to {error}."
        elif clock.error > _LOOSE * (chart.end - chart.begin) and len(chart.node_names) > 1:
            yield f"No turn on {name} began at once, so its clock may differ from the driver's by up to {error}."
    if len(chart.lanes) > MAX_LANES:
        yield f"{len(chart.lanes) - MAX_LANES} further replicas are only in the trace file."
    if start.end is None:
        yield "The run still runs, or was killed: turns that had not finished are missing."
