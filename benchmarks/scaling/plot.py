"""The figures of a benchmark of the runtime as a picture: throughput over replicas, hand-overs over actors."""

import math
import textwrap
from typing import TYPE_CHECKING, Any

from latentmas_ray.errors import RunError

if TYPE_CHECKING:
    from benchmarks.scaling.figures import Throughput
    from benchmarks.scaling.measure import ScalingBench

# Told apart by people who see colours differently, too (Okabe and Ito).
_COLOURS = {"memory": "#0072B2", "text": "#D55E00", "driver": "#009E73"}
_IDEAL_COLOUR = "#555555"
_DASHES = (0, (6, 3))
_AIM_MILLISECONDS = 5.0
_TITLE_CHARS = 110


def draw(outcome: "ScalingBench", plot: str) -> None:
    """Write the PNG. Raises RunError where it cannot be written."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Not pyplot: it would look for a screen.
    num_panels = bool(outcome.throughput) + bool(outcome.hand_overs)
    figure = Figure(figsize=(5.5 * num_panels, 6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = iter(figure.subplots(1, num_panels, squeeze=False)[0])
    if outcome.throughput:
        _draw_throughput(next(panels), outcome)
    if outcome.hand_overs:
        _draw_hand_overs(next(panels), outcome)
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


def _draw_throughput(axes: Any, outcome: "ScalingBench") -> None:
    figures = outcome.throughput
    replicas = [one.replicas for one in figures]
    rates = [one.questions_per_second for one in figures]
    ideal = [one.replicas * rates[0] for one in figures]
    axes.plot(
        replicas, ideal, color=_IDEAL_COLOUR, linestyle=_DASHES, linewidth=1.3, label="N times one replica", zorder=2
    )
    axes.plot(replicas, rates, color=_COLOURS["memory"], marker="o", markersize=6, linewidth=1.8, label="measured")
    for one in figures:
        _note_share(axes, one)
    axes.set_ylabel("questions/s")
    axes.set_yscale("log", base=2)
    _finish(axes, "Throughput over replicas", "replicas N of every agent", replicas)


def _note_share(axes: Any, one: "Throughput") -> None:
    axes.annotate(
        f"{100 * one.share_of_linear:.0f} %",
        (one.replicas, one.questions_per_second),
        textcoords="offset points",
        xytext=(6, -12),
        fontsize=8,
    )


def _draw_hand_overs(axes: Any, outcome: "ScalingBench") -> None:
    """The median as a line and p99 as a thin one above it, where all actors are busy; and the driver's own time."""
    figures = [one for one in outcome.hand_overs if one.load == "busy"]
    actors = [one.actors for one in figures]
    ways = {
        "memory": ("memory to its reader", [one.memory for one in figures]),
        "text": ("text, through the driver", [one.text for one in figures]),
        "driver": ("driver's processor time", [one.driver.spread for one in figures]),
    }
    for name, (label, spreads) in ways.items():
        colour = _COLOURS[name]
        middles = [1000 * spread.p50 if spread else math.nan for spread in spreads]
        tails = [1000 * spread.p99 if spread else math.nan for spread in spreads]
        axes.plot(actors, middles, color=colour, marker="o", markersize=6, linewidth=1.8, label=f"{label}, p50")
        axes.plot(
            actors, tails, color=colour, marker="^", markersize=4, linewidth=0.9, alpha=0.7, label=f"{label}, p99"
        )
    axes.axhline(_AIM_MILLISECONDS, color=_IDEAL_COLOUR, linestyle=_DASHES, linewidth=1.3, label="aim of p50")
    axes.set_ylabel("ms")
    axes.set_yscale("log")
    _finish(axes, "Hand-overs, all actors busy", "actors", actors)


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
    axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2)
