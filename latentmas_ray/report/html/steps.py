"""The section on accuracy over latent steps, for runs that differ only in these."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from latentmas_ray.config import latent_steps_of, most_steps
from latentmas_ray.report.html.entries import Entry, Group
from latentmas_ray.report.html.figures import Figure
from latentmas_ray.report.labels import spread

_DIGIT_WIDTH, _TICK_GAP = 2.4, 1.2  # in percent of the plot's width on a phone, the narrowest screen
_LINEAR_TO = 8  # steps; the horizontal axis is nearly linear up to here and logarithmic beyond
_SEPARATOR = " · "  # between the parts of a run's label
_NUM_DASHES = 4  # dash-0, dash-1, … in report.css
_LABEL_GAP = 7.0  # between the labels of lines, in percent of the plot's height


@dataclass(frozen=True, kw_only=True)
class Point:
    """One run. Positions are in percent of the plot, from its left and its top."""

    entry: Entry
    steps: int
    accuracy: Figure
    x: float
    y: float
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class StepsLine:
    """Runs that differ in their latent steps only."""

    accent: str  # the colour of the runs
    dash: str  # differs for lines of the same colour
    label: str
    points: tuple[Point, ...]

    def strokes(self) -> Iterator[tuple[Point, Point]]:
        return pairwise(self.points)


@dataclass(frozen=True, kw_only=True)
class EndLabel:
    """The label at the end of a line. Positions are in percent of the plot, from its left and its top."""

    accent: str
    prefix: str  # its method, hidden if there is little room: the colour shows it too
    text: str
    x: float  # the end of the line
    y: float
    label_y: float  # moved so that labels do not overlap


@dataclass(frozen=True, kw_only=True)
class StepsChart:
    """The lines of one group, and its runs without latent steps as horizontal lines."""

    group: Group
    lines: tuple[StepsLine, ...]
    levels: tuple[Point, ...]
    labels: tuple[EndLabel, ...]
    ticks: tuple[tuple[float, str], ...]  # (position, number of steps) on the horizontal axis, without overlaps


def make_steps_chart(group: Group) -> StepsChart | None:
    """Return the chart of a group; None if no two of its runs differ in their latent steps only."""
    families: dict[tuple[str, ...], list[Entry]] = defaultdict(list)
    for entry in group.entries:
        is_fixed = not latent_steps_of(entry.config.latent_steps).may_stop
        if entry.config.method == "latent" and is_fixed and entry.accuracy.value is not None:
            families[_family(entry)].append(entry)
    members = [found for found in families.values() if len({_steps(entry) for entry in found}) > 1]
    if not members:
        return None
    numbers = sorted({_steps(entry) for found in members for entry in found})
    places = _places(numbers)
    dashes = Counter[str]()
    lines = []
    for found in members:
        accent = found[0].accent
        lines.append(
            StepsLine(
                accent=accent,
                dash=f"dash-{dashes[accent] % _NUM_DASHES}",
                label=_line_label(found),
                points=tuple(_point(entry, places[_steps(entry)]) for entry in sorted(found, key=_steps)),
            )
        )
        dashes[accent] += 1
    levels = tuple(
        _point(entry, 0.0)
        for entry in group.entries
        if entry.config.method != "latent" and entry.accuracy.value is not None
    )
    labels = _labels(lines, levels)
    return StepsChart(group=group, lines=tuple(lines), levels=levels, labels=labels, ticks=tuple(_ticks(places)))


def _family(entry: Entry) -> tuple[str, ...]:
    """Return all settings that affect results except the number of latent steps, and all seeds of the run."""
    identity = entry.config.identity()
    settings = tuple(f"{name}={value}" for name, value in identity.items() if name not in ("latent_steps", "seed"))
    return (*settings, *(f"seed={run.config.seed}" for run in entry.runs))


def _steps(entry: Entry) -> int:
    return most_steps(entry.config.latent_steps)


def _places(numbers: list[int]) -> dict[int, float]:
    """Return the horizontal position of each number of steps, so that 0, 10, 20, 40 and 80 are well separated."""
    least, most = (math.log1p(number / _LINEAR_TO) for number in (numbers[0], numbers[-1]))
    return {number: 3 + 94 * (math.log1p(number / _LINEAR_TO) - least) / (most - least) for number in numbers}


def _ticks(places: Mapping[int, float]) -> Iterator[tuple[float, str]]:
    """Yield the ticks that do not overlap. `places` must be in ascending order."""
    free = -math.inf
    for steps, place in places.items():
        text = str(steps)
        half = (_DIGIT_WIDTH * len(text) + _TICK_GAP) / 2
        if place - half >= free:
            yield place, text
            free = place + half


def _labels(lines: Sequence[StepsLine], levels: Sequence[Point]) -> tuple[EndLabel, ...]:
    ends = [(line.accent, line.label, line.points[-1].x, line.points[-1].y) for line in lines]
    ends += [(level.entry.accent, level.entry.label, 100.0, level.y) for level in levels]
    heights = spread([y for *_, y in ends], _LABEL_GAP, low=0.0, high=100.0)
    found = []
    for (accent, text, x, y), height in zip(ends, heights, strict=True):
        method, separator, settings = text.partition(_SEPARATOR)
        prefix = method + separator if settings else ""
        label_y = round(height, 2)
        found.append(EndLabel(accent=accent, prefix=prefix, text=settings or method, x=x, y=y, label_y=label_y))
    return tuple(found)


def _line_label(entries: list[Entry]) -> str:
    """Return the parts that the runs' labels have in common."""
    parts = [entry.label.split(_SEPARATOR) for entry in entries]
    return _SEPARATOR.join(part for part in parts[0] if all(part in other for other in parts))


def _point(entry: Entry, x: float) -> Point:
    interval = entry.interval
    return Point(
        entry=entry,
        steps=_steps(entry),
        accuracy=entry.accuracy,
        x=round(x, 2),
        y=_height(entry.accuracy.value or 0.0),
        low=None if interval is None else _height(interval.low),
        high=None if interval is None else _height(interval.high),
    )


def _height(accuracy: float) -> float:
    return round(100 * (1 - accuracy), 2)
