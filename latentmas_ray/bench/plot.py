"""Plots a transfer benchmark: bandwidth over segment size, with each link's limit. Lines are labelled at their ends."""

import importlib.util
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from latentmas_ray.errors import ConfigError, RunError
from latentmas_ray.report.labels import spread

if TYPE_CHECKING:
    from latentmas_ray.bench.timings import SizeFigures
    from latentmas_ray.bench.transfer import TransferBench

# Safe for colour-blind readers (Okabe and Ito); each line has a label, too.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#B8578F", "#A87000", "#2E8FC7", "#000000", "#8C564B")
_MARKERS: Mapping[str, str] = {"same_process": "o", "same_node": "s", "cross_node": "D"}
_TITLE_CHARS = 150
_NOTE_CHARS = 90
_FAR_ABOVE = 2.0  # times the limit
_LIMIT_COLOUR = "#555555"
_LIMIT_DASHES: Mapping[str, Any] = {
    "same_process": (0, (2, 2)),
    "same_node": (0, (6, 3)),
    "cross_node": (0, (6, 2, 1, 2)),
}
_POINTS_PER_INCH = 72.0
_FONT_POINTS = 8.5
_LABEL_POINTS = 1.35 * _FONT_POINTS  # from one label to the next
_LEADER_POINTS = 16.0  # from the right side of a panel to its labels


@dataclass(frozen=True, kw_only=True)
class LineEnd:
    """The label of a line, and the point where the line ends."""

    text: str
    colour: str
    x: float  # in the axes' data coordinates
    y: float


def check_matplotlib(plot: str) -> None:
    """Raise ConfigError if matplotlib is missing; called before the measurement, which takes minutes."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError("plot", plot, "it takes matplotlib: pip install '.[report]' in a checkout")


def draw(outcome: "TransferBench", plot: str) -> None:
    """Write the PNG file. Raises RunError if that fails."""
    save_figure(make_figure(outcome), plot)


def save_figure(figure: Any, plot: str) -> None:
    """Write a matplotlib figure as PNG. Raises RunError if that fails."""
    try:
        figure.savefig(plot, format="png")
    except OSError as error:
        raise RunError(f"{plot} cannot be written: {error.strerror}") from error


def make_figure(outcome: "TransferBench") -> Any:
    """Return the plot as a matplotlib figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Not pyplot: it would try to open a display.
    figure = Figure(figsize=(13, 5.8), dpi=150)
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharey=True)
    figure.subplots_adjust(left=0.07, right=0.83, top=0.83, bottom=0.18, wspace=0.55)
    kinds = {"move": "The move: packed → readable", "hand_over": "The hand-over: cache → cache, ready to attend"}
    ends = [_draw_panel(axes, outcome, kind) for axes, kind in zip(panels, kinds, strict=True)]
    for axes, title, found in zip(panels, kinds.values(), ends, strict=True):
        axes.set_title(title, fontsize=11, loc="left")
        label_ends(figure, axes, found)
    panels[0].set_ylabel("bandwidth (GB/s)")
    settings = outcome.settings
    about = f"{settings.model}, {settings.dtype}: {outcome.machine}; medians of {settings.repeats}"
    figure.suptitle("Moving working memory\n" + textwrap.fill(about, _TITLE_CHARS), fontsize=11, x=0.01, ha="left")
    return figure


def _draw_panel(axes: Any, outcome: "TransferBench", kind: str) -> list[LineEnd]:
    """Draw the lines of one panel; return the labels and where they belong."""
    ends, not_drawn, limits_drawn = [], [], set()
    transports = list(dict.fromkeys(way.transport for way in outcome.ways))
    for way in outcome.ways:
        link = way.link.replace("_", " ")
        sizes = [size.num_bytes / 1e6 for size in way.sizes]
        timings = [_timing(size, kind) for size in way.sizes]
        # A transfer far faster than a copy moved no bytes; drawn, it would compress the scale of all others.
        if all(timing.share_of_limit > _FAR_ABOVE for timing in timings[1:] or timings):
            not_drawn.append(f"{way.transport} ({link})")
        else:
            colour = _COLOURS[transports.index(way.transport) % len(_COLOURS)]
            speeds = [timing.bytes_per_second / 1e9 for timing in timings]
            axes.plot(sizes, speeds, color=colour, marker=_MARKERS[way.link], markersize=5, linewidth=1.8)
            ends.append(LineEnd(text=f"{way.transport}, {link}", colour=colour, x=sizes[-1], y=speeds[-1]))
        if way.link not in limits_drawn:
            limits_drawn.add(way.link)
            limits = [timing.limit_bytes_per_second / 1e9 for timing in timings]
            axes.plot(sizes, limits, color=_LIMIT_COLOUR, linestyle=_LIMIT_DASHES[way.link], linewidth=1.3, zorder=2)
            text = f"limit, {link}: {way.limit}"
            ends.append(LineEnd(text=text, colour=_LIMIT_COLOUR, x=sizes[-1], y=limits[-1]))
    _style(axes)
    if not_drawn:
        note = textwrap.fill(f"Not drawn, as they move no bytes: {', '.join(not_drawn)}", _NOTE_CHARS)
        axes.text(0.0, -0.15, note, transform=axes.transAxes, fontsize=_FONT_POINTS, color=_LIMIT_COLOUR, va="top")
    return ends


def _style(axes: Any) -> None:
    axes.set_axisbelow(True)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("size of the segment (MB)")
    axes.grid(which="major", color="#dddddd", linewidth=0.7)
    axes.grid(which="minor", axis="y", color="#f0f0f0", linewidth=0.5)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}")


def label_ends(figure: Any, axes: Any, ends: Sequence[LineEnd]) -> None:
    """Write the labels at the right of a panel: next to the ends of their lines, without overlaps.

    `axes` must have its final position and scales.
    """
    axes.autoscale_view()  # matplotlib computes limits late, and the labels need them now
    box = axes.get_position()
    height = figure.get_figheight() * box.height * _POINTS_PER_INCH
    shift = _LEADER_POINTS / (figure.get_figwidth() * box.width * _POINTS_PER_INCH)
    to_axes = axes.transData + axes.transAxes.inverted()
    places = [to_axes.transform((end.x, end.y)) for end in ends]
    heights = spread([float(y) for _, y in places], _LABEL_POINTS / height, low=0.0, high=1.0)
    for end, (x, y), label_y in zip(ends, places, heights, strict=True):
        leader = (x, 1.0, 1.0 + shift), (y, y, label_y)
        axes.plot(*leader, transform=axes.transAxes, color="#aaaaaa", linewidth=0.6, clip_on=False, zorder=1)
        where = {"transform": axes.transAxes, "va": "center"}
        axes.text(1.0 + 1.2 * shift, label_y, end.text, color=end.colour, fontsize=_FONT_POINTS, **where)


def _timing(size: "SizeFigures", kind: str) -> Any:
    return size.move if kind == "move" else size.hand_over
