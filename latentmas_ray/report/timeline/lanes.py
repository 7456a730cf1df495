"""The lanes of a timeline: what each replica did, and what was handed over between them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from latentmas_ray.runs.timeline import StartTimeline
from latentmas_ray.runs.timeline.rows import LostTurnRow, NodeRow, ReadRow, ReplicaRow, SpanRow, TurnRow

HERE = "this process"  # the lane of a run without Ray


@dataclass(frozen=True, eq=False)
class Bar:
    """A turn, or one question of an agent that writes every question for itself. Times are in seconds."""

    turn: TurnRow
    questions: tuple[str, ...]
    spans: tuple[SpanRow, ...]  # in the order of time

    @property
    def begin(self) -> float:
        return self.spans[0][1]

    @cached_property
    def end(self) -> float:
        return max(end for _, _, end in self.spans)


@dataclass(frozen=True, kw_only=True, eq=False)
class LaneRow:
    """Bars of a lane that do not overlap."""

    bars: tuple[Bar, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Lane:
    """What happened on one replica, and on those that replaced it."""

    name: str
    agents: tuple[str, ...]
    nodes: tuple[str, ...]
    rows: tuple[LaneRow, ...]  # several where questions are written at the same time
    changes: tuple[ReplicaRow, ...]  # it was ready, or lost
    lost: tuple[LostTurnRow, ...]

    @cached_property
    def bars(self) -> tuple[Bar, ...]:
        return tuple(bar for row in self.rows for bar in row.bars)


@dataclass(frozen=True, kw_only=True, eq=False)
class HandOverArrow:
    """One segment on its way, from when its last chunk left, or its only one, until the reader absorbed it."""

    read: ReadRow
    source: Bar
    reader: Bar
    begin: float
    end: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Chart:
    """One start of a run."""

    begin: float
    end: float
    lanes: tuple[Lane, ...]
    arrows: tuple[HandOverArrow, ...]
    node_names: Mapping[str, str]  # by id: node 1, node 2, …
    nodes: tuple[NodeRow, ...]
    faults: tuple[ReplicaRow, ...]


def make_chart(start: StartTimeline) -> Chart | None:
    """Return the lanes of one start; None if no turn finished."""
    bars: dict[str, list[Bar]] = {}
    for turn in start.turns:
        bars.setdefault(turn.replica or HERE, []).extend(_bars(turn))
    if not any(bars.values()):
        return None
    names = dict.fromkeys([*bars, *(row.replica for row in start.replicas if row.replica)])
    order = {agent: place for place, agent in enumerate(_agents_in_order(start.turns))}
    lanes = [_lane(name, bars.get(name, []), start) for name in names]
    lanes.sort(key=lambda lane: (min((order.get(one, len(order)) for one in lane.agents), default=0), _number(lane)))
    every = [bar for lane in lanes for bar in lane.bars]
    begin = min(bar.begin for bar in every)
    times = [bar.end for bar in every]
    times += [row.at for row in start.replicas if row.at >= begin] + [row.at for row in start.nodes if row.at >= begin]
    return Chart(
        begin=begin,
        end=max(times),
        lanes=tuple(lanes),
        arrows=tuple(_arrows(every)),
        node_names=_node_names(start, lanes),
        nodes=start.nodes,
        faults=tuple(row for row in start.replicas if row.event == "replica_lost"),
    )


def busy_times(lane: Lane) -> list[tuple[float, float]]:
    """Return when a replica computed something: its phases without waiting, as spans that do not touch."""
    found: list[tuple[float, float]] = []
    for begin, end in sorted((begin, end) for bar in lane.bars for phase, begin, end in bar.spans if phase != "wait"):
        if found and begin <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        elif end > begin:
            found.append((begin, end))
    return found


def _number(lane: Lane) -> tuple[str, int, str]:
    """Replica 2 comes before replica 10."""
    agent, _, number = lane.name.rpartition(" ")
    return agent, int(number) if number.isdecimal() else 0, lane.name


def _node_names(start: StartTimeline, lanes: Sequence[Lane]) -> dict[str, str]:
    """Number the nodes in the order of the lanes; their ids say nothing to a reader, and are in the trace."""
    found = [node for lane in lanes for node in lane.nodes] + [row.node for row in start.nodes]
    return {node: f"node {number}" for number, node in enumerate(dict.fromkeys(found), start=1)}


def _agents_in_order(turns: Sequence[TurnRow]) -> list[str]:
    """The agents in the order in which they first began."""
    first: dict[str, float] = {}
    for turn in turns:
        begin = turn.spans[0][1] if turn.spans else turn.seen_at
        first[turn.agent] = min(begin, first.get(turn.agent, begin))
    return sorted(first, key=lambda agent: first[agent])


def _bars(turn: TurnRow) -> Iterator[Bar]:
    """Yield one bar for a turn, or one for each of its questions; the first of those to start has what was done for the
    whole turn."""
    questions = [(name, spans) for name, spans in zip(turn.questions, turn.question_spans, strict=False) if spans]
    if not questions:
        if turn.spans:
            yield Bar(turn, turn.questions, _in_order(turn.spans))
        return
    questions.sort(key=lambda one: one[1][0][1])
    for place, (name, spans) in enumerate(questions):
        yield Bar(turn, (name,), _in_order((*turn.spans, *spans) if place == 0 else spans))


def _in_order(spans: Iterable[SpanRow]) -> tuple[SpanRow, ...]:
    return tuple(sorted(spans, key=lambda span: span[1]))


def _lane(name: str, bars: Sequence[Bar], start: StartTimeline) -> Lane:
    changes = tuple(row for row in start.replicas if row.replica == name)
    return Lane(
        name=name,
        agents=tuple(dict.fromkeys([bar.turn.agent for bar in bars] + [one for row in changes for one in row.agents])),
        nodes=tuple(dict.fromkeys([node for bar in bars for node in bar.turn.nodes])),
        rows=tuple(LaneRow(bars=tuple(row)) for row in _pack(bars)),
        changes=changes,
        lost=tuple(row for row in start.lost_turns if (row.replica or HERE) == name),
    )


def _pack(bars: Sequence[Bar]) -> list[list[Bar]]:
    """Put bars into as few rows as possible, so that those of one row do not overlap."""
    rows: list[list[Bar]] = []
    for bar in sorted(bars, key=lambda one: one.begin):
        free = next((row for row in rows if row[-1].end <= bar.begin), None)
        if free is None:
            rows.append([bar])
        else:
            free.append(bar)
    return rows


def _arrows(bars: Sequence[Bar]) -> Iterator[HandOverArrow]:
    """Yield an arrow for each segment that was read. Its source is the last turn of that agent over the question that
    had begun by then: earlier ones were lost, or of an attempt that failed."""
    by_source: dict[tuple[str, str], list[Bar]] = {}
    for bar in bars:
        for question in bar.questions:
            by_source.setdefault((bar.turn.agent, question), []).append(bar)
    drawn: set[tuple[int, str]] = set()
    for reader in sorted(bars, key=lambda bar: bar.begin):
        end = next((begin for phase, begin, _ in reader.spans if phase == "absorb"), reader.begin)
        for read in reader.turn.reads:
            if (id(reader.turn), read.source) in drawn:
                continue  # another question of the turn has it
            sources = [bar for bar in by_source.get((read.source, reader.questions[0]), ()) if bar.begin <= end]
            if sources:
                drawn.add((id(reader.turn), read.source))
                source = max(sources, key=lambda bar: bar.begin)
                yield HandOverArrow(read=read, source=source, reader=reader, begin=_left_at(source, end), end=end)


def _left_at(source: Bar, absorbed_at: float) -> float:
    """When the last chunk left that the reader could absorb first: the prompt's, if the source was still thinking."""
    ends = [end for phase, _, end in source.spans if phase == "emit"] or [source.end]
    before = [end for end in ends if end <= absorbed_at]
    return max(before) if before else ends[0]
