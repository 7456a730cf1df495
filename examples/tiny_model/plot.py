"""Plots the curves of a training run."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from examples.tiny_model.document import KINDS


def plot_history(history: Sequence[Mapping[str, float]], path: Path) -> None:
    """Plot the loss and the share of right whole answers over the steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    left.plot([row["step"] for row in history], [row["loss"] for row in history])
    left.set(xlabel="step", ylabel="loss of the target tokens", yscale="log")
    for kind in KINDS:
        rows = [row for row in history if kind in row]
        right.plot([row["step"] for row in rows], [row[kind] for row in rows], label=kind, linewidth=1)
    right.set(xlabel="step", ylabel="whole answers right (fresh data)", ylim=(0, 1))
    right.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
