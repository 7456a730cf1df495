"""Plots simulated runs over the number of nodes. Lines are labelled at their ends."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from latentmas_ray.bench.plot import LineEnd, label_ends
from latentmas_ray.errors import RunError

if TYPE_CHECKING:
    from latentmas_ray.simulation.figures import SimulatedRun, Simulation

# Safe for colour-blind readers (Okabe and Ito); each line has a label, too.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#B8578F", "#A87000", "#2E8FC7", "#000000", "#8C564B")
_LIMIT_COLOUR = "#555555"
_DASHES = (0, (6, 3))


def draw(outcome: "Simulation", plot: str) -> None:
    """Write the PNG file. Raises RunError if that fails."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Not pyplot: it would try to open a display.
    figure = Figure(figsize=(16, 5.2), dpi=150)
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 3)
    figure.subplots_adjust(left=0.05, right=0.91, top=0.82, bottom=0.12, wspace=0.55)
    _draw_panel(figure, panels[0], outcome, "questions/s", lambda one: one.questions_per_second, is_log=True)
    _draw_panel(figure, panels[1], outcome, "GPUs that compute (%)", lambda one: 100 * one.gpu_use)
    label = "driver's share of a core (%)"
    _draw_panel(figure, panels[2], outcome, label, lambda one: 100 * one.driver_share, is_log=True, limit=100.0)
    settings = outcome.settings
    title = (
        f"Simulated: {settings.questions:,} questions, batches of {settings.batch_size}, {settings.gpus_per_node} GPUs "
        f"a node, {settings.turns_in_words}\n"
        f"driver's processor time of {outcome.machine}, with {1000 * settings.runtime_seconds:g} ms a turn for Ray"
    )
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    try:
        figure.savefig(plot, format="png")
    except OSError as error:
        raise RunError(f"{plot} cannot be written: {error.strerror}") from error


def _draw_panel(
    figure: Any,
    axes: Any,
    outcome: "Simulation",
    label: str,
    value: Callable[["SimulatedRun"], float],
    *,
    is_log: bool = False,
    limit: float | None = None,
) -> None:
    """Draw one figure over nodes, a line for each topology."""
    ends = []
    for number, name in enumerate(dict.fromkeys(one.topology for one in outcome.runs)):
        runs = sorted((one for one in outcome.runs if one.topology == name), key=lambda one: one.nodes)
        xs, ys = [one.nodes for one in runs], [value(one) for one in runs]
        colour = _COLOURS[number % len(_COLOURS)]
        axes.plot(xs, ys, color=colour, marker="o", markersize=5, linewidth=1.8)
        ends.append(LineEnd(text=name, colour=colour, x=xs[-1], y=ys[-1]))
    if limit is not None:
        axes.axhline(limit, color=_LIMIT_COLOUR, linestyle=_DASHES, linewidth=1.3)
        ends.append(LineEnd(text="one core", colour=_LIMIT_COLOUR, x=max(outcome.settings.nodes), y=limit))
    _finish(axes, label, sorted(set(outcome.settings.nodes)), is_log=is_log)
    label_ends(figure, axes, ends)


def _finish(axes: Any, label: str, nodes: Sequence[int], *, is_log: bool) -> None:
    axes.set_axisbelow(True)
    axes.set_xscale("log", base=2)
    axes.set_xticks(nodes)
    axes.set_xticks([], minor=True)
    axes.set_xlabel("nodes")
    axes.set_title(label, fontsize=11, loc="left")
    if is_log:
        axes.set_yscale("log")
    else:
        axes.set_ylim(0, 105)
    axes.grid(which="major", color="#dddddd", linewidth=0.7)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}")
