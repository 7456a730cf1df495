"""Plots accuracy over latent steps, and the convergence of thoughts, by rule."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.thoughts.figures import CellFigures
from latentmas_ray.bench.plot import save_figure

# Safe for colour-blind readers (Okabe and Ito); each line has a label, too.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#B8578F", "#A87000", "#2E8FC7", "#000000", "#8C564B")
_ALONE = ("latent-only", "latent-only+sink")  # thoughts without prompts: a panel of their own


def draw_curves(
    figures: Sequence[CellFigures],
    convergence: Mapping[str, Sequence[tuple[float, float, float]]],
    label: str,
    plot: str,
) -> None:
    """Write the PNG file. Raises RunError if that fails."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Not pyplot: it would try to open a display.
    alone = [memory for memory in _ALONE if any(memory in one.accuracy for one in figures)]
    figure = Figure(figsize=(6.5 * (2 + len(alone)), 4.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    *panels, cosines = figure.subplots(1, 2 + len(alone))
    colours = {rule: _COLOURS[index % len(_COLOURS)] for index, rule in enumerate(convergence)}
    for memory, panel in zip(("matched", *alone), panels, strict=True):
        for rule, colour in colours.items():
            _draw_accuracy(panel, [one for one in figures if one.rule == rule or not one.steps], rule, colour, memory)
        panel.set(xlabel="latent steps", ylabel="accuracy, %", ylim=(0, 102), title=f"{label}: {memory}")
        panel.set_xscale("symlog", linthresh=1, base=2)
        steps = sorted({one.steps for one in figures})
        panel.set_xticks(steps, labels=map(str, steps))
        panel.set_xlim(-0.2, 1.15 * steps[-1])
    _draw_controls(panels[0], [memory for memory in _names(figures) if memory not in alone], figures)
    _draw_controls(panels[-1], [memory for memory in _names(figures) if memory == "none" and alone], figures)
    panels[0].legend(fontsize=8)
    for rule, colour in colours.items():
        later = range(1, len(convergence[rule]) + 1)
        cosines.plot(later, [mean for mean, _, _ in convergence[rule]], color=colour, marker="o", markersize=3)
    cosines.set(xlabel="latent step", ylabel="cosine to the thought before", title="convergence of thoughts")
    save_figure(figure, plot)


def _names(figures: Sequence[CellFigures]) -> list[str]:
    """The controls that were run."""
    return list(dict.fromkeys(name for one in figures for name in one.gains))


def _draw_accuracy(axes: Any, figures: Sequence[CellFigures], rule: str, colour: str, memory: str) -> None:
    shown = sorted((one for one in figures if memory in one.accuracy), key=lambda one: one.steps)
    points = [(one.steps, *one.accuracy[memory]) for one in shown]
    steps, means = [step for step, _, _ in points], [100 * mean for _, mean, _ in points]
    errors = [
        [100 * (mean - low) for _, mean, (low, _) in points],
        [100 * (high - mean) for _, mean, (_, high) in points],
    ]
    axes.errorbar(steps, means, yerr=errors, color=colour, marker="o", markersize=3, capsize=2, label=rule)


def _draw_controls(axes: Any, names: Sequence[str], figures: Sequence[CellFigures]) -> None:
    """The mean of each control over all cells, as a line."""
    for index, memory in enumerate(names):
        means = [100 * one.accuracy[memory][0] for one in figures if memory in one.accuracy]
        axes.axhline(
            sum(means) / len(means), color="#555555", linestyle=(0, (2 + 2 * index, 2)), linewidth=1, label=memory
        )
