"""Plots a server under load: times and rates over the number of clients, and memory over time."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from latentmas_ray.bench.plot import LineEnd, label_ends, save_figure

if TYPE_CHECKING:
    from latentmas_ray.bench.serve.figures import LoadFigures
    from latentmas_ray.bench.serve.measure import ServeBench

# Safe for colour-blind readers (Okabe and Ito); each line has a label, too.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#B8578F", "#A87000")
_MEGABYTE = 1e6


def draw_load(outcome: "ServeBench", plot: str) -> None:
    """Write the PNG file. Raises RunError if that fails."""
    save_figure(make_load_figure(outcome), plot)


def make_load_figure(outcome: "ServeBench") -> Any:
    """Return the plot as a matplotlib figure: a panel for closed loops, one for open ones, one for memory, as far as
    they were measured; a load without an answer has no point."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels: list[tuple[str, str, Any]] = []
    answered = [one for one in outcome.loads if one.num_answered]
    if closed := [one for one in answered if one.concurrency is not None]:
        panels.append(("Time to the first token", "clients", (closed, "concurrency", "first_token")))
        panels.append(("Time to the whole answer", "clients", (closed, "concurrency", "whole")))
    if opened := [one for one in answered if one.rate is not None]:
        panels.append(("The whole answer, open loop", "requests a second", (opened, "rate", "whole")))
    if outcome.memory:
        panels.append(("Resident memory", "minutes", None))
    figure = Figure(figsize=(1.0 + 4.6 * max(1, len(panels)), 4.4), dpi=130)
    FigureCanvasAgg(figure)
    axes_of = figure.subplots(1, max(1, len(panels)), squeeze=False)[0]
    figure.subplots_adjust(left=0.05, right=0.90, top=0.84, bottom=0.14, wspace=1.0)
    for axes, (title, label, lines) in zip(axes_of, panels, strict=False):
        axes.set_title(title, fontsize=10.5, loc="left")
        axes.set_xlabel(label)
        ends = _draw_memory(axes, outcome) if lines is None else _draw_times(axes, *lines)
        axes.grid(which="major", color="#dddddd", linewidth=0.7)
        label_ends(figure, axes, ends)
    figure.suptitle(f"A server under load: {outcome.machine}", fontsize=11, x=0.01, ha="left")
    return figure


def _draw_times(axes: Any, loads: Sequence["LoadFigures"], x: str, times: str) -> list[LineEnd]:
    """Draw p50 as a line and p95 as a dashed one, by model."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_ylabel("seconds")
    axes.set_xticks(sorted({float(getattr(one, x)) for one in loads}))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    ends = []
    for number, model in enumerate(dict.fromkeys(one.model for one in loads)):
        own = sorted((one for one in loads if one.model == model), key=lambda one: float(getattr(one, x)))
        colour = _COLOURS[number % len(_COLOURS)]
        at = [float(getattr(one, x)) for one in own]
        p50, p95 = ([getattr(getattr(one, times), name) for one in own] for name in ("p50", "p95"))
        axes.plot(at, p50, color=colour, marker="o", markersize=4, linewidth=1.8)
        axes.plot(at, p95, color=colour, marker="_", markersize=7, linestyle=(0, (4, 2)), linewidth=1.1)
        ends.append(LineEnd(text=f"{_short(model)}, p50", colour=colour, x=at[-1], y=p50[-1]))
        ends.append(LineEnd(text=f"{_short(model)}, p95", colour=colour, x=at[-1], y=p95[-1]))
    return ends


def _draw_memory(axes: Any, outcome: "ServeBench") -> list[LineEnd]:
    axes.set_ylabel("MB")
    minutes = [one.seconds / 60 for one in outcome.memory]
    ends = []
    for name, colour in (("server", _COLOURS[0]), ("actor", _COLOURS[1])):
        sizes = [getattr(one, f"{name}_bytes") / _MEGABYTE for one in outcome.memory]
        axes.plot(minutes, sizes, color=colour, linewidth=1.5)
        label = "server" if name == "server" else f"{outcome.memory[-1].num_actors} actors"
        ends.append(LineEnd(text=label, colour=colour, x=minutes[-1], y=sizes[-1]))
    axes.set_ylim(bottom=0)
    return ends


def _short(model: str) -> str:
    return model.removeprefix("latentmas/").rpartition("/")[2]
