"""One strip of the picture: lanes below one another on one scale of time."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from latentmas_ray.engine.turn import PhaseName
from latentmas_ray.report.timeline.lanes import Bar, Chart, HandOverArrow, Lane
from latentmas_ray.report.timeline.windows import Window
from latentmas_ray.units import format_bytes, format_seconds

_LANE_PIXELS = 26  # the least height of a lane
_GAP_PIXELS = 22  # between lanes, for arrows
_DENSE_LANES = 16  # more of them are lower and closer together
_DENSE_PIXELS, _DENSE_GAP_PIXELS = 16, 6
_MAX_ARROWS = 150  # in a strip: more hide what they connect
_LABEL_PERCENT = 14.0  # of the width of an arrow's label, about
_FAINT_ARROWS = 50  # more than these are faint
_TOP_PIXELS = 6
_MAX_ROWS_PIXELS = 150  # of a lane with many rows
_NUM_BINS = 240  # of the overview
_LEAST_LABELLED = 10  # pixels: the height of a bar that has its number; where it is too narrow the style hides it
_STEPS = (1.0, 2.0, 5.0)


@dataclass(frozen=True, kw_only=True)
class PhasePiece:
    """A phase of a turn."""

    phase: PhaseName
    left: float  # in percent of the strip
    width: float
    opacity: float = 1.0


@dataclass(frozen=True, kw_only=True)
class DrawnBar:
    """A turn, or a question."""

    left: float
    width: float
    top: float  # in pixels from the top of the strip
    height: float
    pieces: tuple[PhasePiece, ...]
    label: str = ""
    title: str = ""


@dataclass(frozen=True, kw_only=True)
class DrawnArrow:
    """A hand-over: a path in a picture 1000 wide and as high as the strip."""

    path: str
    left: float  # where its head is: percent and pixels
    top: float
    points_up: bool
    crosses_nodes: bool
    title: str
    label: str  # only of the first from one agent to another by one way
    label_left: float
    label_top: float


@dataclass(frozen=True, kw_only=True)
class Outage:
    """The time in which a replica was lost, or in which a turn ran that was lost with it."""

    kind: str  # down, or lost
    left: float
    width: float
    top: float
    height: float
    label: str
    title: str


@dataclass(frozen=True, kw_only=True)
class LaneName:
    """The label of a lane."""

    name: str
    nodes: str
    top: float
    height: float


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A mark of the scale of time, or a node that joined."""

    left: float
    label: str


@dataclass(frozen=True, kw_only=True)
class Strip:
    """All of it."""

    caption: str
    height: float
    names: tuple[LaneName, ...]
    bars: tuple[DrawnBar, ...]
    arrows: tuple[DrawnArrow, ...]
    has_faint_arrows: bool
    is_dense: bool
    outages: tuple[Outage, ...]
    ticks: tuple[Tick, ...]
    joins: tuple[Tick, ...]


class _Places:
    """Where lanes and their rows are, in pixels, and where times are, in percent."""

    def __init__(self, lanes: Sequence[Lane], window: Window, *, is_flat: bool = False) -> None:
        self.window = window
        self.lanes: dict[Lane, tuple[float, float]] = {}  # top and height
        self.rows: dict[Bar, tuple[float, float]] = {}
        self.is_dense = len(lanes) > _DENSE_LANES
        lane_pixels = _DENSE_PIXELS if self.is_dense else _LANE_PIXELS
        self.gap = _DENSE_GAP_PIXELS if self.is_dense else _GAP_PIXELS
        top = float(_TOP_PIXELS)
        for lane in lanes:
            count = 1 if is_flat else max(1, len(lane.rows))
            row_height = max(3.0, min(lane_pixels / min(count, 2), _MAX_ROWS_PIXELS / count))
            height = max(float(lane_pixels), row_height * count)
            if count == 1:
                row_height = height
            self.lanes[lane] = top, height
            for number, row in enumerate(lane.rows):
                place = top + (0 if is_flat else number) * row_height, row_height
                self.rows.update(dict.fromkeys(row.bars, place))
            top += height + (_DENSE_GAP_PIXELS if is_flat else self.gap)
        self.height = top

    def left(self, at: float) -> float:
        """Return where a time is, cut off at the strip's ends."""
        return round(100 * min(max((at - self.window.begin) / (self.window.seconds or 1.0), 0.0), 1.0), 3)

    def shows(self, begin: float, end: float) -> bool:
        return end >= self.window.begin and begin <= self.window.end


def make_strip(chart: Chart, lanes: Sequence[Lane], window: Window, numbers: Mapping[str, int]) -> Strip:
    """Draw a window in detail. `numbers` has the number of each question's batch."""
    found = [lane for lane in lanes if _is_active(lane, window)]
    num_idle, lanes = len(lanes) - len(found), found or lanes[:1]
    places = _Places(lanes, window)
    bars = [bar for bar in places.rows if places.shows(bar.begin, bar.end)]
    from_to = f"{format_seconds(window.begin - chart.begin)} to {format_seconds(window.end - chart.begin)}"
    arrows, one_of = _shown_arrows(chart, places)
    notes = [f"{num_idle} idle {'replica is' if num_idle == 1 else 'replicas are'} left out"] if num_idle else []
    notes += [f"one of {one_of} hand-overs has its arrow"] if one_of > 1 else []
    return Strip(
        caption="; ".join([f"{window.shows}, {from_to}", *notes]),
        height=places.height,
        names=tuple(_names(places, chart)),
        bars=tuple(_drawn(bar, places, numbers, chart.begin) for bar in bars),
        arrows=tuple(_arrows(arrows, places)),
        has_faint_arrows=len(arrows) > _FAINT_ARROWS,
        is_dense=places.is_dense,
        outages=tuple(one for lane in lanes for one in (*_outages(lane, places, chart), *_lost_turns(lane, places))),
        ticks=tuple(_ticks(places, chart.begin)),
        joins=tuple(
            Tick(left=places.left(node.at), label=f"{chart.node_names[node.node]} {node.event.removeprefix('node_')}")
            for node in chart.nodes
            if places.shows(node.at, node.at)
        ),
    )


def make_overview(chart: Chart, lanes: Sequence[Lane]) -> Strip:
    """Draw the whole start: in each of equal stretches of time the phase that took most of it, and how much."""
    places = _Places(lanes, Window(begin=chart.begin, end=chart.end, shows="the whole run"), is_flat=True)
    bars = []
    for lane, (top, height) in places.lanes.items():
        bars.append(
            DrawnBar(left=0.0, width=100.0, top=top, height=height, pieces=tuple(_binned(lane, chart.begin, chart.end)))
        )
    return Strip(
        caption=f"the whole run, {format_seconds(chart.end - chart.begin)}: the phase that took most of each moment",
        height=places.height,
        names=tuple(_names(places, chart)),
        bars=tuple(bars),
        arrows=(),
        has_faint_arrows=False,
        is_dense=places.is_dense,
        outages=tuple(one for lane in lanes for one in _outages(lane, places, chart)),
        ticks=tuple(_ticks(places, chart.begin)),
        joins=(),
    )


def _names(places: _Places, chart: Chart) -> Iterator[LaneName]:
    for lane, (top, height) in places.lanes.items():
        yield LaneName(
            name=lane.name, nodes=", ".join(chart.node_names[node] for node in lane.nodes), top=top, height=height
        )


def _drawn(bar: Bar, places: _Places, numbers: Mapping[str, int], zero: float) -> DrawnBar:
    top, height = places.rows[bar]
    left = places.left(bar.begin)
    width = round(places.left(bar.end) - left, 3)
    number = numbers[bar.questions[0]] if bar.questions else 0
    phases = ", ".join(f"{phase} {format_seconds(end - begin)}" for phase, begin, end in bar.spans)
    who = bar.questions[0] if len(bar.questions) == 1 else f"{len(bar.questions)} questions"
    return DrawnBar(
        left=left,
        width=width,
        top=top,
        height=height,
        label=str(number) if height >= _LEAST_LABELLED else "",
        title=f"{bar.turn.agent}, no. {number}: {who}, from {format_seconds(bar.begin - zero)}: {phases}",
        pieces=tuple(_pieces(bar, places, left, width)),
    )


def _pieces(bar: Bar, places: _Places, left: float, width: float) -> Iterator[PhasePiece]:
    for phase, begin, end in bar.spans:
        first, last = places.left(begin), places.left(end)
        if width and last > first:
            share = 100 / width
            yield PhasePiece(phase=phase, left=round((first - left) * share, 2), width=round((last - first) * share, 2))


def _is_active(lane: Lane, window: Window) -> bool:
    """Whether anything is drawn in a lane: a bar, or the loss of its replica, which may last longer than the window."""
    times = [(bar.begin, bar.end) for bar in lane.bars]
    times += [(change.at, change.at) for change in lane.changes] + [(lost.submitted_at, lost.at) for lost in lane.lost]
    is_down = False
    for change in lane.changes:
        if change.at <= window.begin:
            is_down = change.event == "replica_lost"
    return is_down or any(end >= window.begin and begin <= window.end for begin, end in times)


def _shown_arrows(chart: Chart, places: _Places) -> tuple[list[HandOverArrow], int]:
    """Return the hand-overs within a window between lanes that are drawn, one of so many that they can be told apart,
    and of how many."""
    window = places.window
    found = [
        arrow
        for arrow in chart.arrows
        if arrow.source in places.rows
        and arrow.reader in places.rows
        and window.begin <= arrow.begin
        and arrow.end <= window.end
    ]
    one_of = max(1, -(-len(found) // _MAX_ARROWS))
    return found[::one_of], one_of


def _arrows(found: Sequence[HandOverArrow], places: _Places) -> Iterator[DrawnArrow]:
    labelled: set[tuple[str, str, str]] = set()
    labels: list[tuple[float, float]] = []
    for arrow in found:
        (top, height), (to_top, to_height) = places.rows[arrow.source], places.rows[arrow.reader]
        goes_up = to_top < top
        y1, y2 = (top, to_top + to_height) if goes_up else (top + height, to_top)
        x1, x2 = places.left(arrow.begin), places.left(arrow.end)
        if to_top == top:  # the same actor: an arc below the lane
            y1 = y2 = top + height
            path, goes_up = f"M{10 * x1:.1f} {y1} Q{5 * (x1 + x2):.1f} {y1 + 16} {10 * x2:.1f} {y2}", True
        else:
            path = f"M{10 * x1:.1f} {y1} L{10 * x2:.1f} {y2}"
        read = arrow.read
        key = read.source, arrow.reader.turn.agent, read.transport
        way = f"{format_bytes(read.num_bytes)} {read.transport}"
        link = read.link.replace("_", " ")
        moved = "" if read.moved_bytes == read.num_bytes else f", {format_bytes(read.moved_bytes)} of them moved"
        label_left = round(x1 + (x2 - x1) * min(1.0, places.gap / 2 / (abs(y2 - y1) or 1.0)), 3)
        label_top = y1 + math.copysign(places.gap / 2, y2 - y1)  # between two lanes, where it hides no bar
        is_free = all(abs(label_left - left) > _LABEL_PERCENT or label_top != top for left, top in labels)
        is_labelled = key not in labelled and is_free and not places.is_dense
        yield DrawnArrow(
            path=path,
            left=x2,
            top=y2,
            points_up=goes_up,
            crosses_nodes=read.link == "cross_node",
            title=f"{read.source} → {arrow.reader.turn.agent}: {way}, {link}{moved}, {format_seconds(read.seconds)}",
            label=way if is_labelled else "",
            label_left=label_left,
            label_top=label_top,
        )
        if is_labelled:
            labelled.add(key)
            labels.append((label_left, label_top))


def _outages(lane: Lane, places: _Places, chart: Chart) -> Iterator[Outage]:
    """Yield each stretch from a loss until a replica is ready again. Its first turn may come before the driver sees
    that it is ready."""
    bars, down_until = lane.bars, -math.inf
    for place, change in enumerate(lane.changes):
        if change.event != "replica_lost" or change.at < down_until:  # one that was starting again
            continue
        signs = [later.at for later in lane.changes[place + 1 :] if later.event == "replica_ready"]
        ready = min([*signs, *(bar.begin for bar in bars if bar.begin >= change.at)], default=None)
        down_until = chart.end if ready is None else ready
        lasted = "to the end" if ready is None else f"for {format_seconds(ready - change.at)}"
        if places.shows(change.at, down_until):
            yield _outage("down", lane, places, (change.at, down_until), label=f"lost {lasted}", title=change.reason)


def _lost_turns(lane: Lane, places: _Places) -> Iterator[Outage]:
    """Yield the turn that ran when it was lost. Of those lost at the same moment the first ran, and the others
    waited."""
    bars, lost_until = lane.bars, -math.inf
    losses = [change.at for change in lane.changes if change.event == "replica_lost"]
    for lost in sorted(lane.lost, key=lambda one: (one.at, one.submitted_at)):
        at = max((loss for loss in losses if lost.submitted_at <= loss <= lost.at), default=lost.at)
        free_since = max([bar.end for bar in bars if bar.end <= at] + [lost.submitted_at])
        if at > lost_until and places.shows(free_since, at):
            why = f"a turn of {lost.agent} that was lost: {lost.reason}"
            yield _outage("lost", lane, places, (free_since, at), label="", title=why)
        lost_until = at


def _outage(kind: str, lane: Lane, places: _Places, span: tuple[float, float], *, label: str, title: str) -> Outage:
    """Return the mark of a span of seconds in a lane."""
    left, (top, height) = places.left(span[0]), places.lanes[lane]
    width = round(places.left(span[1]) - left, 3)
    return Outage(kind=kind, left=left, width=width, top=top, height=height, label=label, title=title)


def _ticks(places: _Places, zero: float) -> Iterator[Tick]:
    window = places.window
    rough = window.seconds / 6 or 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((power * one for one in _STEPS if power * one >= rough), power * 10)
    first = math.ceil((window.begin - zero) / step - 1e-9)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    for number in range(first, math.floor((window.end - zero) / step + 1e-9) + 1):
        yield Tick(left=places.left(zero + number * step), label=f"{number * step:.{digits}f} s")


def _binned(lane: Lane, begin: float, end: float) -> Iterator[PhasePiece]:
    size = (end - begin) / _NUM_BINS or 1.0
    shares: list[dict[PhaseName, float]] = [{} for _ in range(_NUM_BINS)]
    for bar in lane.bars:
        for phase, first, last in bar.spans:
            low, high = (first - begin) / size, (last - begin) / size
            for place in range(max(0, int(low)), min(_NUM_BINS, math.ceil(high))):
                part = min(high, place + 1) - max(low, place)
                shares[place][phase] = shares[place].get(phase, 0.0) + max(0.0, part)
    num_rows = max(1, len(lane.rows))
    looks: list[tuple[PhaseName, float] | None] = []  # of each bin: its phase and how much of it
    for share in shares:
        if (total := sum(share.values())) <= 0:
            looks.append(None)
            continue
        most = max(share, key=lambda phase: share[phase])
        looks.append((most, round(min(1.0, 0.2 + 0.8 * total / num_rows), 1)))
    place = 0
    for look, same in groupby(looks):  # one piece where they are alike
        count = len(list(same))
        if look is not None:
            left, width = round(100 * place / _NUM_BINS, 3), round(100 * count / _NUM_BINS, 3)
            yield PhasePiece(phase=look[0], left=left, width=width, opacity=look[1])
        place += count
