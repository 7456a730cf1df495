"""Accuracy over latent steps, where runs differ in nothing else."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from latentmas_ray.report.html.entries import Entry, Group
from latentmas_ray.report.html.figures import NUM_COLOURS, Figure

_DIGIT_WIDTH, _TICK_GAP = 2.4, 1.2  # in percent of the plot on a phone, the narrowest there is
_OFTEN_RUN = 8  # horizontal axis: linear up to here, then in ever larger steps


@dataclass(frozen=True, kw_only=True)
class Point:
    """One run. Places are in percent of the plot, from its left and its top."""

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

    accent: str  # the runs' own; a colour of its own where lines would have the same
    label: str
    points: tuple[Point, ...]

    def strokes(self) -> Iterator[tuple[Point, Point]]:
        return pairwise(self.points)


@dataclass(frozen=True, kw_only=True)
class StepsChart:
    """The lines of one group, and runs without latent steps as levels."""

    group: Group
    lines: tuple[StepsLine, ...]
    levels: tuple[Point, ...]
    ticks: tuple[tuple[float, str], ...]  # horizontal: place and number of steps, where there is room for it


def make_steps_chart(group: Group) -> StepsChart | None:
    """The chart of a group; None if no two of its runs differ in their latent steps only."""
    families: dict[tuple[str, ...], list[Entry]] = defaultdict(list)
    for entry in group.entries:
        if entry.config.method == "latent" and entry.accuracy.value is not None:
            families[_family(entry)].append(entry)
    members = [found for found in families.values() if len({_steps(entry) for entry in found}) > 1]
    if not members:
        return None
    numbers = sorted({_steps(entry) for found in members for entry in found})
    places = _places(numbers)
    accents = [found[0].accent for found in members]
    if len(set(accents)) < len(accents):
        accents = [f"agent-{index % NUM_COLOURS}" for index in range(len(members))]
    lines = tuple(
        StepsLine(
            accent=accent,
            label=_line_label(found),
            points=tuple(_point(entry, places[_steps(entry)]) for entry in sorted(found, key=_steps)),
        )
        for accent, found in zip(accents, members, strict=True)
    )
    levels = tuple(
        _point(entry, 0.0)
        for entry in group.entries
        if entry.config.method != "latent" and entry.accuracy.value is not None
    )
    return StepsChart(group=group, lines=lines, levels=levels, ticks=tuple(_ticks(places)))


def _family(entry: Entry) -> tuple[str, ...]:
    """Everything that decides what is computed but the number of latent steps; all seeds of a run."""
    identity = entry.config.identity()
    settings = tuple(f"{name}={value}" for name, value in identity.items() if name not in ("latent_steps", "seed"))
    return (*settings, *(f"seed={run.config.seed}" for run in entry.runs))


def _steps(entry: Entry) -> int:
    return entry.config.latent_steps


def _places(numbers: list[int]) -> dict[int, float]:
    """Where numbers of steps stand, so that 0, 10, 20, 40 and 80 are all apart."""
    least, most = (math.log1p(number / _OFTEN_RUN) for number in (numbers[0], numbers[-1]))
    return {number: 3 + 94 * (math.log1p(number / _OFTEN_RUN) - least) / (most - least) for number in numbers}


def _ticks(places: Mapping[int, float]) -> Iterator[tuple[float, str]]:
    """Numbers of steps that do not touch one another; `places` are in their order."""
    free = -math.inf
    for steps, place in places.items():
        text = str(steps)
        half = (_DIGIT_WIDTH * len(text) + _TICK_GAP) / 2
        if place - half >= free:
            yield place, text
            free = place + half


def _line_label(entries: list[Entry]) -> str:
    """What the runs have in common in their names."""
    parts = [entry.label.split(" · ") for entry in entries]
    return " · ".join(part for part in parts[0] if all(part in other for other in parts))


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
