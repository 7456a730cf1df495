"""The figures of a transfer benchmark as a picture: bandwidth over segment size, with each link's own limit."""

import importlib.util
import math
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from latentmas_ray.errors import ConfigError, RunError

if TYPE_CHECKING:
    from latentmas_ray.bench.stamps import SizeFigures
    from latentmas_ray.bench.transfer import TransferBench

# Told apart by people who see colours differently, too (Okabe and Ito).
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C564B")
_MARKERS: Mapping[str, str] = {"same_process": "o", "same_node": "s", "cross_node": "D"}
_LIMIT = "limit"
_TITLE_CHARS = 120
_FAR_ABOVE = 2.0  # times its limit
_LIMIT_COLOUR = "#555555"
_LIMIT_DASHES: Mapping[str, Any] = {
    "same_process": (0, (2, 2)),
    "same_node": (0, (6, 3)),
    "cross_node": (0, (6, 2, 1, 2)),
}


def check_matplotlib(plot: str) -> None:
    """Raises ConfigError if a picture was asked for and cannot be drawn: before minutes are spent on measuring."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError("plot", plot, "it takes matplotlib: pip install '.[report]' in a checkout")


def draw(outcome: "TransferBench", plot: str) -> None:
    """Write the PNG. Raises RunError where it cannot be written."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Not pyplot: it would look for a screen.
    figure = Figure(figsize=(11, 5.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, kind, title in zip(
        panels,
        ("move", "hand_over"),
        ("The move: packed → readable", "The hand-over: cache → cache, ready to attend"),
        strict=True,
    ):
        _draw_panel(axes, outcome, kind)
        axes.set_title(title, fontsize=11, loc="left")
    panels[0].set_ylabel("bandwidth (GB/s)")
    handles, labels = panels[0].get_legend_handles_labels()
    # Measurements first, then limits; they were drawn way by way.
    order = sorted(range(len(labels)), key=lambda index: labels[index].startswith(_LIMIT))
    figure.legend(
        [handles[index] for index in order],
        [labels[index] for index in order],
        loc="outside lower center",
        ncols=min(3, len(labels)),
        frameon=False,
        fontsize=9,
    )
    settings = outcome.settings
    about = f"{settings.model}, {settings.dtype}: {outcome.machine}; medians of {settings.repeats}"
    title = "Moving working memory\n" + textwrap.fill(about, _TITLE_CHARS)
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    try:
        figure.savefig(plot, format="png")
    except OSError as error:
        raise RunError(f"{plot} cannot be written: {error.strerror}") from error


def _draw_panel(axes: Any, outcome: "TransferBench", kind: str) -> None:
    limits_drawn = set()
    transports = list(dict.fromkeys(way.transport for way in outcome.ways))
    for way in outcome.ways:
        name = f"{way.link.replace('_', ' ')}, {way.transport}"
        sizes = [size.num_bytes / 1e6 for size in way.sizes]
        timings = [_timing(size, kind) for size in way.sizes]
        # Nothing was moved where it took far less than a copy: a point up there would squeeze all others.
        if all(timing.share_of_limit > _FAR_ABOVE for timing in timings[1:] or timings):
            name += " (its move moves no bytes)"
            speeds = [math.nan] * len(sizes)
        else:
            speeds = [timing.bytes_per_second / 1e9 for timing in timings]
        colour, marker = _COLOURS[transports.index(way.transport) % len(_COLOURS)], _MARKERS[way.link]
        axes.plot(sizes, speeds, color=colour, marker=marker, markersize=5, linewidth=1.8, label=name)
        if way.link in limits_drawn:
            continue
        limits_drawn.add(way.link)
        limits = [_timing(size, kind).limit_bytes_per_second / 1e9 for size in way.sizes]
        label = f"{_LIMIT} of {way.link.replace('_', ' ')}: {way.limit}"
        axes.plot(
            sizes, limits, color=_LIMIT_COLOUR, linestyle=_LIMIT_DASHES[way.link], linewidth=1.3, label=label, zorder=2
        )
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


def _timing(size: "SizeFigures", kind: str) -> Any:
    return size.move if kind == "move" else size.hand_over
