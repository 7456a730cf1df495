"""The plot: accuracy after pretraining, after fine-tuning, and after training by rewards, with intervals over seeds."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from examples.training.front_loading.cells import EXTREMES, RL_SET
from examples.training.front_loading.documents import CONTROLS, MIXES, SFT_SETS
from examples.training.front_loading.tables import accuracies
from examples.training.studies.folder import StudyRow
from latentmas_ray.bench.plot import save_figure

# Safe for colour-blind readers (Okabe and Ito).
_COLOURS = {
    "none": "#000000",
    "small": "#D55E00",
    "large": "#0072B2",
    "union": "#009E73",
    "small-fresh": "#A87000",
    "large-repeated": "#B8578F",
}


def plot_stages(rows: Sequence[StudyRow], path: Path) -> None:
    """Write the PNG file. Raises RunError if that fails."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    first, second, third = figure.subplots(1, 3, sharey=True, width_ratios=(2, 4, 1.3))
    mixes = (*MIXES, *CONTROLS)
    _draw(first, rows, [(f"pretrain-{mix}", mix, place) for place, mix in enumerate(mixes)])
    first.set(title="after pretraining", ylabel="right answers, %", ylim=(0, 100))
    first.set_xticks(range(len(mixes)), labels=mixes, rotation=35, ha="right")
    sets = [f"{name}{more}" for name in SFT_SETS for more in ("", "x2")]
    points = [
        (f"sft-{mix}-{chosen}", mix, place + 0.18 * (order - 1.5))
        for place, chosen in enumerate(sets)
        for order, mix in enumerate(MIXES)
    ]
    _draw(second, rows, points)
    second.set(title="after fine-tuning on … (x2: doubled)")
    second.set_xticks(range(len(sets)), labels=sets)
    for mix in MIXES:
        second.plot([], [], color=_COLOURS[mix], marker="o", linestyle="", label=f"pretrained on {mix}")
    second.legend(fontsize=8)
    places = [(f"{stage}-{mix}{end}", mix, place + 0.2 * order) for place, (stage, end) in
              enumerate((("sft", f"-{RL_SET}"), ("rl", ""))) for order, mix in enumerate(EXTREMES)]  # fmt: skip
    _draw(third, rows, places)
    third.set(title="before and after rewards")
    third.set_xticks([0.1, 1.1], labels=[f"tuned on {RL_SET}", "rewards"])
    save_figure(figure, str(path))


def _draw(axes: Any, rows: Sequence[StudyRow], points: Sequence[tuple[str, str, float]]) -> None:
    """Draw the accuracy of each cell (its name, its mix and its place) that was run."""
    for name, mix, place in points:
        found = accuracies(rows, name)
        if found is not None:
            error = None if found.half_width is None else 100 * found.half_width
            axes.errorbar(place, 100 * found.mean, yerr=error, color=_COLOURS[mix], marker="o", capsize=3)
