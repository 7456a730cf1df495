"""The figures as a table of Markdown, and as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.keep.measure import KeepFigures
from benchmarks.keep.settings import SPOTS
from latentmas_ray.bench.plot import save_figure
from latentmas_ray.stats import PairedDifference
from latentmas_ray.units import format_bytes

_COLUMNS = ("keep", "by", "codec", "bytes a question", "fewer", "accuracy, %", "to all, points", "P, points")
# Safe for colour-blind readers (Okabe and Ito).
_COLOURS = {"prompt": "#0072B2", "reader": "#D55E00", "random": "#555555", "thoughts": "#009E73"}
_COLOURS |= {"numbers": "#B8578F", "names+numbers": "#A87000", "facts": "#2E8FC7", "prompts": "#000000"}
_MARKERS = {"none": "o", "bf16": "^", "int8": "s", "int4": "D"}


def table(figures: Sequence[KeepFigures]) -> str:
    """A line for each cell; "fewer" is how many times fewer bytes than with everything, as it is."""
    most = max(one.sent_bytes for one in figures)
    lines = [_line(_COLUMNS), _line(("---:", "---", "---", *["---:"] * 5))]
    for one in figures:
        cell, (low, high) = one.cell, one.interval
        lines.append(
            _line(
                (
                    "places" if cell.by in SPOTS else f"{cell.keep:g}",
                    "" if cell.keeps_all else cell.by,
                    cell.codec,
                    format_bytes(round(one.sent_bytes)),
                    f"{most / one.sent_bytes:.2f} ×",
                    f"{100 * one.accuracy:.1f} ({100 * low:.1f}–{100 * high:.1f})",
                    "" if one.lost is None else _points(one.lost),
                    _points(one.pairing_gain),
                )
            )
        )
    return "\n".join(lines)


def draw(figures: Sequence[KeepFigures], path: Path) -> None:
    """Accuracy and pairing gain over bytes, one line for each chooser and codec. Raises RunError."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    choosers = dict.fromkeys(one.cell.by for one in figures if not one.cell.keeps_all)
    for by in choosers or dict.fromkeys(one.cell.by for one in figures):
        for codec in dict.fromkeys(one.cell.codec for one in figures):
            own = [one for one in figures if one.cell.codec == codec and (one.cell.by == by or one.cell.keeps_all)]
            own.sort(key=lambda one: one.sent_bytes)
            sizes = [one.sent_bytes / 1000 for one in own]
            looks = {"color": _COLOURS[by], "marker": _MARKERS[codec], "label": f"{by}, {codec}", "linewidth": 1}
            rights, gains = [one.accuracy for one in own], [one.pairing_gain.difference for one in own]
            _draw_line(left, sizes, rights, [one.interval for one in own], looks)
            _draw_line(right, sizes, gains, [one.pairing_gain.interval for one in own], looks)
    for axes, name in ((left, "accuracy, %"), (right, "P = matched − deranged, points")):
        axes.set(xlabel="kB handed over a question", ylabel=name, xscale="log")
        axes.grid(alpha=0.3)
    left.legend(fontsize=8)
    save_figure(figure, str(path))


def _draw_line(
    axes: Any,
    sizes: Sequence[float],
    values: Sequence[float],
    intervals: Sequence[tuple[float, float]],
    looks: Mapping[str, object],
) -> None:
    """A line with the 95 % interval of each point; shares, drawn in percent."""
    below = [100 * (value - low) for value, (low, _) in zip(values, intervals, strict=True)]
    above = [100 * (high - value) for value, (_, high) in zip(values, intervals, strict=True)]
    axes.errorbar(sizes, [100 * value for value in values], yerr=[below, above], capsize=2, markersize=4, **looks)


def _points(difference: PairedDifference) -> str:
    low, high = difference.interval
    return f"{100 * difference.difference:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
