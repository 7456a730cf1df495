"""The figures of `latentmas bench transfer` as tables, readable at 80 columns."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from latentmas_ray.cli.render.fitted import FittedTable
from latentmas_ray.units import format_bytes, format_fine_seconds, format_speed_ratio

if TYPE_CHECKING:
    from latentmas_ray.bench.timings import SizeFigures, Timing
    from latentmas_ray.bench.transfer import TransferBench, TransportFigures

_PHASES = {"copy_out": "copy\nout", "pack": "pack", "way": "way", "unpack": "unpack", "write": "write"}
_FAR_ABOVE = 2.0  # of the limit: only a transport that moves no bytes is faster


def transfer_tables(outcome: "TransferBench") -> RenderableType:
    """Return all figures: a table per transport and link, the phases, and the delay between two agents."""
    settings = outcome.settings
    title = (
        f"{settings.model}, {format_bytes(outcome.bytes_per_token)} per token: {outcome.machine}; "
        f"medians of {settings.repeats}"
    )
    parts = [*map(_way_table, outcome.ways), _phases_table(outcome.ways), *_end_to_end_table(outcome)]
    rendered: list[RenderableType] = ["", title]
    for heading, table in parts:
        rendered += ["", Text(heading, style="bold"), table]
    return Group(*rendered)


def _way_table(way: "TransportFigures") -> tuple[str, Table]:
    copies = "2 memcpys + TCP" if way.link == "cross_node" else "2 memcpys"
    heading = f"{_name(way)}: move as % of {way.limit}, hand-over as % of {copies}"
    table = make_table(("size", "move", "p99", "GB/s", "%", "hand-\nover", "p99", "GB/s", "%"), "tokens")
    for size in way.sizes:
        cells = [f"{size.tokens}", format_bytes(size.num_bytes)]
        for timing in (size.move, size.hand_over):
            cells += [format_fine_seconds(timing.seconds), format_fine_seconds(timing.p99_seconds), *_speed(timing)]
        table.add_row(*cells)
    if way.clock_error_seconds:
        heading += f"\n(two clocks: a move is right to ± {format_fine_seconds(way.clock_error_seconds)})"
    return heading, table


def _phases_table(ways: Iterable["TransportFigures"]) -> tuple[str, Table]:
    """Return the phases of the transfer of the largest segment, and the time of the link itself."""
    table = make_table((*_PHASES.values(), "the\nlimit"), "")
    for way in ways:
        size: SizeFigures = way.sizes[-1]
        cells = [format_fine_seconds(size.phases[name]) for name in _PHASES]
        limit = format_fine_seconds(size.num_bytes / size.move.limit_bytes_per_second)
        table.add_row(_name(way), *cells, limit)
    return "where the hand-over of the largest segment goes", table


def _end_to_end_table(outcome: "TransferBench") -> Iterator[tuple[str, Table]]:
    figures = outcome.end_to_end
    if figures is None:
        return
    heading = (
        f"end to end: {figures.prompt_tokens} prompt tokens, {figures.latent_steps} latent steps, "
        f"{format_bytes(figures.num_bytes)}, {figures.transport}, {figures.link.replace('_', ' ')}"
    )
    table = make_table(("thought to\nabsorbed", "exposed, as\nruns report"), "")
    for name, side in (("with overlap", figures.overlap), ("without", figures.no_overlap)):
        table.add_row(name, format_fine_seconds(side.seconds), format_fine_seconds(side.exposed_seconds))
    table.add_row("overlap is", format_speed_ratio(figures.ratio), "")
    yield heading, table


def make_table(columns: Iterable[str], first: str) -> Table:
    """Return a narrow table with right-aligned figures."""
    table = FittedTable(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column(first, justify="right" if first else "left", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def format_gigabytes(bytes_per_second: float) -> str:
    """Return GB/s as a number."""
    rate = bytes_per_second / 1e9
    return f"{rate:.1f}" if rate >= 0.995 else f"{rate:.2g}"


def _name(way: "TransportFigures") -> str:
    return f"{way.link.replace('_', ' ')}, {way.transport}"


def _speed(timing: "Timing") -> tuple[str, str]:
    """Return GB/s and % of the limit; a transport that moves no bytes has no speed."""
    if timing.share_of_limit > _FAR_ABOVE:
        return "–", "> 200"
    percent = 100 * timing.share_of_limit
    return format_gigabytes(timing.bytes_per_second), f"{percent:.0f}" if percent >= 9.5 else f"{percent:.1f}"
