"""Plots the runtime's benchmark: throughput over replicas, hand-overs over actors. Lines are labelled at their ends."""

import math
import textwrap
from typing import TYPE_CHECKING, Any

from latentmas_ray.bench.plot import LineEnd, label_ends
from latentmas_ray.errors import RunError

if TYPE_CHECKING:
    from benchmarks.scaling.figures import Throughput
    from benchmarks.scaling.measure import ScalingBench

# Safe for colour-blind readers (Okabe and Ito); each line has a label, too.
_COLOURS = {"memory": "#0072B2", "text": "#D55E00", "driver": "#009E73"}
_IDEAL_COLOUR = "#555555"
_DASHES = (0, (6, 3))
_AIM_MILLISECONDS = 5.0
_TITLE_CHARS = 110


def draw(outcome: "ScalingBench", plot: str) -> None:
    """Write the PNG file. Raises RunError if that fails."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Not pyplot: it would try to open a display.
    num_panels = bool(outcome.throughput) + bool(outcome.hand_overs)
    figure = Figure(figsize=(6.5 * num_panels, 5.5), dpi=150)
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, num_panels, squeeze=False)[0]
    labels_width = 0.31 / num_panels
    figure.subplots_adjust(left=0.12 / num_panels, right=1 - labels_width, top=0.83, bottom=0.11, wspace=0.68)
    draws = [_draw_throughput] * bool(outcome.throughput) + [_draw_hand_overs] * bool(outcome.hand_overs)
    for axes, draw_panel in zip(panels, draws, strict=True):
        ends = draw_panel(axes, outcome)
        label_ends(figure, axes, ends)
    settings = outcome.settings
    about = (
        f"{outcome.machine}, turns of {settings.turn_seconds:g} s by a timer; load before {outcome.load_average:.1f}"
    )
    title = "What the runtime itself can do\n" + textwrap.fill(about, _TITLE_CHARS * num_panels // 2)
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    try:
        figure.savefig(plot, format="png")
    except OSError as error:
        raise RunError(f"{plot} cannot be written: {error.strerror}") from error


def _draw_throughput(axes: Any, outcome: "ScalingBench") -> list[LineEnd]:
    """Draw questions per second over replicas; return the labels of the lines."""
    figures = outcome.throughput
    replicas = [one.replicas for one in figures]
    rates = [one.questions_per_second for one in figures]
    ideal = [one.replicas * rates[0] for one in figures]
    axes.plot(replicas, ideal, color=_IDEAL_COLOUR, linestyle=_DASHES, linewidth=1.3, zorder=2)
    axes.plot(replicas, rates, color=_COLOURS["memory"], marker="o", markersize=6, linewidth=1.8)
    for one in figures:
        _note_share(axes, one)
    axes.set_ylabel("questions/s")
    axes.set_yscale("log", base=2)
    _finish(axes, "Throughput over replicas", "replicas N of every agent", replicas)
    return [
        LineEnd(text="N times one replica", colour=_IDEAL_COLOUR, x=replicas[-1], y=ideal[-1]),
        LineEnd(text="measured", colour=_COLOURS["memory"], x=replicas[-1], y=rates[-1]),
    ]


def _note_share(axes: Any, one: "Throughput") -> None:
    axes.annotate(
        f"{100 * one.share_of_linear:.0f} %",
        (one.replicas, one.questions_per_second),
        textcoords="offset points",
        xytext=(6, -12),
        fontsize=8,
    )


def _draw_hand_overs(axes: Any, outcome: "ScalingBench") -> list[LineEnd]:
    """Draw the median (thick) and p99 (thin) while all actors are busy; return the labels of the lines."""
    figures = [one for one in outcome.hand_overs if one.load == "busy"]
    actors = [one.actors for one in figures]
    ends: list[LineEnd] = []
    series = {
        "memory": ("memory to its reader", [one.memory for one in figures]),
        "text": ("text, through the driver", [one.text for one in figures]),
        "driver": ("driver's processor time", [one.driver.spread for one in figures]),
    }
    for name, (label, spreads) in series.items():
        colour = _COLOURS[name]
        middles = [1000 * spread.p50 if spread else math.nan for spread in spreads]
        tails = [1000 * spread.p99 if spread else math.nan for spread in spreads]
        axes.plot(actors, middles, color=colour, marker="o", markersize=6, linewidth=1.8)
        axes.plot(actors, tails, color=colour, marker="^", markersize=4, linewidth=0.9, alpha=0.7)
        ends += _ends_of(f"{label}, p50", colour, actors, middles) + _ends_of(f"{label}, p99", colour, actors, tails)
    axes.axhline(_AIM_MILLISECONDS, color=_IDEAL_COLOUR, linestyle=_DASHES, linewidth=1.3)
    ends.append(LineEnd(text="aim of p50", colour=_IDEAL_COLOUR, x=actors[-1], y=_AIM_MILLISECONDS))
    axes.set_ylabel("ms")
    axes.set_yscale("log")
    _finish(axes, "Hand-overs, all actors busy", "actors", actors)
    return ends


def _ends_of(text: str, colour: str, xs: list[int], ys: list[float]) -> list[LineEnd]:
    """Return the label of a line at its last point; none if it has no points."""
    points = [(x, y) for x, y in zip(xs, ys, strict=True) if not math.isnan(y)]
    return [LineEnd(text=text, colour=colour, x=points[-1][0], y=points[-1][1])] if points else []


def _finish(axes: Any, title: str, label: str, ticks: list[int]) -> None:
    axes.set_axisbelow(True)
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks)
    axes.set_xticks([], minor=True)
    axes.set_xlabel(label)
    axes.margins(0.08)
    axes.set_title(title, fontsize=11, loc="left")
    axes.grid(which="major", color="#dddddd", linewidth=0.7)
    axes.grid(which="minor", axis="y", color="#f0f0f0", linewidth=0.5)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_minor_formatter(lambda value, _: "")
