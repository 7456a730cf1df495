"""Plots accuracy over latent steps, one panel for a task."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from examples.training.protocol.judge import TEAMS
from examples.training.studies.intervals import accuracy_of
from latentmas_ray.stats import accuracy_interval

# Safe for colour-blind readers (Okabe and Ito); the memory is the line's style.
_COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#B8578F", "#A87000", "#2E8FC7", "#8C564B")
_STYLES = {"matched": "-", "latent-only": "--", "deranged": ":", "none": "-."}
_SHIFT = 1.04  # so that intervals at the same number of steps stand apart


def draw_accuracies(judged: Sequence[tuple[str, Mapping[str, Any], Mapping[str, str]]], path: Path) -> None:
    """Write a PNG file of runs: whose weights, the cell's settings, and verdicts by number of steps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5 * len(TEAMS), 4.8), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    names = list(dict.fromkeys(who for who, _, _ in judged))
    every = sorted({int(steps) for _, _, verdicts in judged for steps in verdicts})
    order = list(_STYLES)
    judged = sorted(
        (one for one in judged if one[1]["memory"] in order),
        key=lambda one: (names.index(one[0]), order.index(one[1]["memory"])),
    )
    for panel, task in zip(figure.subplots(1, len(TEAMS)), TEAMS, strict=True):
        for who, settings, verdicts in judged:
            if settings["task"] == task:
                index = names.index(who)
                _draw(panel, verdicts, _COLOURS[index % len(_COLOURS)], _SHIFT**index, f"{who}, {settings['memory']}",
                      _STYLES[settings["memory"]])  # fmt: skip
        panel.set(title=f"{task}, {TEAMS[task]}", xlabel="latent steps", ylabel="accuracy, %", ylim=(0, 102))
        panel.set_xscale("symlog", linthresh=2, base=2)
        panel.set_xticks(every, [str(count) for count in every])
        panel.set_xticks([], minor=True)
        panel.set_xlim(left=-0.5)
        if panel.lines:
            panel.legend(fontsize=7, handlelength=4)
    figure.savefig(path)


def _draw(panel: Any, verdicts: Mapping[str, str], colour: str, shift: float, label: str, style: str) -> None:
    points = sorted((int(steps), one) for steps, one in verdicts.items())
    means = [100 * accuracy_of(one) for _, one in points]
    bounds = [accuracy_interval([float(right) for right in one]) for _, one in points]
    errors = [
        [mean - 100 * low for mean, (low, _) in zip(means, bounds, strict=True)],
        [100 * high - mean for mean, (_, high) in zip(means, bounds, strict=True)],
    ]
    steps = [count * shift for count, _ in points]
    panel.errorbar(
        steps, means, yerr=errors, color=colour, linestyle=style, marker="o", markersize=3, capsize=2, label=label
    )
