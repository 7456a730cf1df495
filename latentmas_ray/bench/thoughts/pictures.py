"""Pictures of thoughts: the distribution of hidden states, thoughts and input embeddings, their main plane before and
after the rule, and the convergence of thoughts.

Dimensions: N vectors, E hidden size.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentmas_ray.bench.plot import save_figure
from latentmas_ray.bench.thoughts.figures import ThoughtFigures
from latentmas_ray.bench.thoughts.sample import ThoughtSample

PLACES_NAME, CONVERGENCE_NAME = "thoughts.png", "convergence.png"
# Safe for colour-blind readers (Okabe and Ito); each kind has a label, too.
_COLOURS = {"embeddings": "#999999", "hidden": "#D55E00", "mapped": "#B8578F", "fed": "#0072B2", "written": "#009E73"}
_MAX_SHOWN = 4000  # points of a kind
_NUM_BINS = 120


def draw_pictures(sample: ThoughtSample, figures: ThoughtFigures, folder: Path) -> None:
    """Write both pictures. Raises RunError if that fails."""
    about = f"{figures.model}, thoughts {figures.thoughts}, {figures.task}, {figures.num_questions} questions"
    save_figure(_places(sample, about), str(folder / PLACES_NAME))
    save_figure(_convergence(figures, about), str(folder / CONVERGENCE_NAME))


def main_plane(vectors_NE: Tensor) -> tuple[Tensor, Tensor]:
    """The mean [E] and the two main directions [E, 2] of vectors, each with its largest entry positive."""
    mean_E = vectors_NE.mean(dim=0)
    centred_NE = (vectors_NE - mean_E).double()
    _, vectors_EE = torch.linalg.eigh(centred_NE.T @ centred_NE)
    axes_E2 = vectors_EE[:, [-1, -2]].float()
    signs = axes_E2.gather(0, axes_E2.abs().argmax(dim=0, keepdim=True)).sign()
    return mean_E, axes_E2 * signs


def _figure(width: float, panels: int) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Not pyplot: it would try to open a display.
    figure = Figure(figsize=(width, 4.6), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, panels, squeeze=False)[0]


def _places(sample: ThoughtSample, about: str) -> Any:
    figure, panels = _figure(15, 3)
    kinds = {
        "embeddings": ("input embeddings", sample.embeddings_VE),
        "hidden": ("hidden states h", sample.hidden_NE),
        "mapped": ("after the rule", sample.mapped_NE),
        "fed": ("thoughts as fed", sample.fed_NE),
    }
    scale = sample.embeddings_VE.std()
    for name, (label, vectors_NE) in kinds.items():
        entries = (vectors_NE / scale).flatten()
        limit = float(torch.quantile(entries[:1_000_000].abs(), 0.999))
        counts, edges = torch.histogram(entries, bins=_NUM_BINS, range=(-limit, limit), density=True)
        middles = (edges[1:] + edges[:-1]) / 2
        panels[0].plot(middles.tolist(), counts.tolist(), color=_COLOURS[name], label=label)
    panels[0].set_xscale("symlog", linthresh=3)
    panels[0].set(title="distribution of the entries", xlabel="entry, in deviations of E_in", ylabel="density")
    panels[0].legend(fontsize=8)
    _plane(panels[1], sample, ("hidden", "hidden states h", sample.hidden_NE))
    panels[1].set_title("before the rule")
    _plane(panels[2], sample, ("fed", "thoughts as fed", sample.fed_NE))
    panels[2].set_title("after the rule, rescaled")
    figure.suptitle(about, fontsize=10)
    return figure


def _plane(axes: Any, sample: ThoughtSample, shown: tuple[str, str, Tensor]) -> None:
    """Draw embeddings and vectors on the main plane of both together."""
    name, label, vectors_NE = shown
    points = {
        ("embeddings", "input embeddings"): _thin(sample.embeddings_VE),
        ("written", "tokens written in text"): _thin(sample.written_WE),
        (name, label): _thin(vectors_NE),
    }
    mean_E, axes_E2 = main_plane(torch.cat([_thin(sample.embeddings_VE), _thin(vectors_NE)]))
    for (colour, text), chosen_NE in points.items():
        xy = ((chosen_NE - mean_E) @ axes_E2).T.tolist()
        axes.scatter(*xy, s=5 if colour == "embeddings" else 9, color=_COLOURS[colour], alpha=0.5, label=text)
    axes.set(xlabel="first direction", ylabel="second direction")
    axes.legend(fontsize=8)


def _thin(vectors_NE: Tensor) -> Tensor:
    """At most `_MAX_SHOWN` of the vectors, evenly spread."""
    count = len(vectors_NE)
    return vectors_NE[torch.linspace(0, count - 1, min(count, _MAX_SHOWN)).round().long()] if count else vectors_NE


def _convergence(figures: ThoughtFigures, about: str) -> Any:
    figure, (axes,) = _figure(7, 1)
    steps = list(range(1, len(figures.convergence) + 1))
    means, lows, highs = ([one[part] for one in figures.convergence] for part in range(3))
    axes.fill_between(steps, lows, highs, color=_COLOURS["fed"], alpha=0.2, label="10 % to 90 %")
    axes.plot(steps, means, color=_COLOURS["fed"], marker="o", markersize=3, label="mean over agents and questions")
    axes.set(title=about, xlabel="latent step", ylabel="cosine to the thought before")
    axes.title.set_fontsize(9)
    axes.legend(fontsize=8, loc="lower right")
    return figure
