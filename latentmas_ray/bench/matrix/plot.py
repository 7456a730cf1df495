"""Draws a matrix: one field per link, coloured by its bandwidth as a share of the upper quartile of its kind."""

from typing import TYPE_CHECKING, Any

from latentmas_ray.bench.matrix.figures import SLOW_SHARE, usual_speed
from latentmas_ray.bench.plot import save_figure

if TYPE_CHECKING:
    from latentmas_ray.bench.matrix.figures import LinkFigures, MatrixBench

_WRITTEN = 12  # ends up to which each field has its figure
_INCHES_PER_END = 0.62
_SMALLEST, _LARGEST = 5.0, 16.0
_MOST = 1.3  # of the upper quartile: colours end there


def draw_matrix(outcome: "MatrixBench", plot: str) -> None:
    """Write the PNG file. Raises RunError if that fails."""
    save_figure(make_matrix_figure(outcome), plot)


def make_matrix_figure(outcome: "MatrixBench") -> Any:
    """Return the picture as a matplotlib figure. Rows send, columns read; slow links have a frame."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = len(outcome.ends)
    side = min(_LARGEST, max(_SMALLEST, 2.6 + _INCHES_PER_END * count))
    figure = Figure(figsize=(side + 1.4, side), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    place = {name: number for number, name in enumerate(outcome.ends)}
    shares: list[list[float]] = [[float("nan")] * count for _ in range(count)]
    slow = {(one.source, one.reader) for one in outcome.slow}
    for link in outcome.links:
        row, column = place[link.source], place[link.reader]
        usual = usual_speed(outcome.links, link.kind)
        if link.bytes_per_second is not None and usual:
            shares[row][column] = link.bytes_per_second / usual
        _mark(axes, link, row, column, is_slow=(link.source, link.reader) in slow, is_written=count <= _WRITTEN)
    image = axes.imshow(shares, vmin=0.0, vmax=_MOST, cmap="cividis")
    figure.colorbar(image, ax=axes, label="share of the upper quartile of its kind of link", shrink=0.8)
    axes.set_xticks(range(count), outcome.ends, rotation=90, fontsize=7)
    axes.set_yticks(range(count), outcome.ends, fontsize=7)
    axes.set_xlabel("reads")
    axes.set_ylabel("sends")
    framed = f"{'framed: ' if slow else 'no link is '}below {SLOW_SHARE:g} of the upper quartile"
    axes.set_title(f"GB/s of segments of {outcome.num_bytes / 1e6:.0f} MB; {framed}", fontsize=9, loc="left")
    return figure


def _mark(axes: Any, link: "LinkFigures", row: int, column: int, *, is_slow: bool, is_written: bool) -> None:
    from matplotlib.patches import Rectangle

    if is_slow:
        axes.add_patch(
            Rectangle((column - 0.47, row - 0.47), 0.94, 0.94, fill=False, edgecolor="#D55E00", linewidth=2.2)
        )
    speed = link.bytes_per_second
    if speed is None:
        axes.text(column, row, "×", ha="center", va="center", color="#D55E00")
    elif is_written:
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.0}
        axes.text(column, row, f"{speed / 1e9:.2g}", ha="center", va="center", fontsize=7, bbox=box)
