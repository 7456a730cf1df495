"""`latentmas bench transfer`: flags, and the figures as tables."""

import json
from collections.abc import Iterable
from itertools import chain
from typing import TYPE_CHECKING, Annotated

import typer

from latentmas_ray.bench.transfer_settings import TransferBenchSettings
from latentmas_ray.errors import ConfigError
from latentmas_ray.units import format_bytes

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from latentmas_ray.bench.stamps import SizeFigures, Timing
    from latentmas_ray.bench.transfer import TransferBench, WayFigures

_PHASES = {"copy_out": "copy\nout", "pack": "pack", "way": "way", "unpack": "unpack", "write": "write"}
_FAR_ABOVE = 2.0  # a share of the limit that only a transport has which does not touch the bytes


def transfer(
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="SHAPE|tiny|FOLDER|HUB_ID", help="whose KV shape (default: qwen3-0.6b)"),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option("--dtype", metavar="auto|float32|bfloat16", help="(default: bfloat16)")
    ] = None,
    tokens: Annotated[
        str | None, typer.Option("--tokens", metavar="T,T,…", help="segment sizes (default: of 1 … 32768 what fits)")
    ] = None,
    transports: Annotated[
        str | None, typer.Option("--transports", metavar="NAME,NAME,…", help="(default: all that work here)")
    ] = None,
    repeats: Annotated[int | None, typer.Option("--repeats", metavar="N", help="of every measurement (default: 5)")] = (
        None
    ),
    address: Annotated[
        str | None,
        typer.Option("--address", metavar="ADDR", help="cluster to measure on; without it one is started here"),
    ] = None,
    end_to_end: Annotated[
        bool, typer.Option("--end-to-end/--no-end-to-end", help="let two agents hand over, with overlap and without")
    ] = True,
    prompt_tokens: Annotated[
        int | None, typer.Option("--prompt-tokens", metavar="N", help="end to end: of the writer (default: 1000)")
    ] = None,
    latent_steps: Annotated[
        int | None, typer.Option("--latent-steps", metavar="N", help="end to end: of the writer (default: 40)")
    ] = None,
    plot: Annotated[str | None, typer.Option("--plot", metavar="FILE.png", help="draw bandwidth over size")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the figures as JSON")] = False,
) -> None:
    """Measure what moving working memory costs, beside what the link itself can do.

    Segments of a model's KV shape go from one cache to another, over every link that there is (same process, same
    node, and another node of the cluster) and with every transport. docs/transfer.md says what the columns mean.
    SHAPE is a well-known model's shape: qwen3-0.6b, qwen3-1.7b, qwen3-4b, qwen3-8b, qwen3-14b.
    """
    given = {
        "model": model,
        "dtype": dtype,
        "tokens": None if tokens is None else _sizes(tokens),
        "transports": None if transports is None else tuple(name.strip() for name in transports.split(",")),
        "repeats": repeats,
        "address": address,
        "end_to_end": end_to_end,
        "prompt_tokens": prompt_tokens,
        "latent_steps": latent_steps,
        "plot": plot,
    }
    settings = TransferBenchSettings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    if settings.plot is not None:
        from latentmas_ray.bench.plot import check_matplotlib

        check_matplotlib(settings.plot)
    from latentmas_ray.bench.transfer import run  # torch and Ray: only once the flags are known good

    outcome = run(settings, lambda line: typer.echo(line, err=True))
    if settings.plot is not None:
        from latentmas_ray.bench.plot import draw

        draw(outcome, settings.plot)
    if as_json:
        typer.echo(json.dumps(outcome.to_json(), indent=2))
        return
    from latentmas_ray.cli.tables import results_console

    results_console().print(transfer_tables(outcome))


def transfer_tables(outcome: "TransferBench") -> "RenderableType":
    """All figures: a table for each transport and link, then where the time goes, then what the agents felt."""
    from rich.console import Group

    settings = outcome.settings
    title = (
        f"{settings.model}, {format_bytes(outcome.bytes_per_token)} per token: {outcome.machine}; "
        f"medians of {settings.repeats}"
    )
    tables = [*map(_way_table, outcome.ways), _phases_table(outcome.ways), *_felt(outcome)]
    return Group("", title, *chain.from_iterable(("", table) for table in tables))


def _way_table(way: "WayFigures") -> "Table":
    copies = "2 memcpys + TCP" if way.link == "cross_node" else "2 memcpys"
    table = _make_table(
        f"{way.link.replace('_', ' ')}, {way.transport}: % of {way.limit}; of {copies}",
        ("size", "move", "p99", "GB/s", "%", "hand-\nover", "p99", "GB/s", "%"),
        "tokens",
    )
    for size in way.sizes:
        cells = [f"{size.tokens}", format_bytes(size.num_bytes)]
        for timing in (size.move, size.hand_over):
            cells += [format_time(timing.seconds), format_time(timing.p99_seconds), *_speed(timing)]
        table.add_row(*cells)
    if way.clock_error_seconds:
        table.caption = f"moves are right to ± {format_time(way.clock_error_seconds)}: two clocks"
    return table


def _phases_table(ways: Iterable["WayFigures"]) -> "Table":
    """The parts of the hand-over of each way's largest segment, and what the link itself took beside it."""
    table = _make_table("where the hand-over of the largest segment goes", (*_PHASES.values(), "the\nlimit"), "")
    for way in ways:
        size: SizeFigures = way.sizes[-1]
        cells = [format_time(size.phases[name]) for name in _PHASES]
        limit = format_time(size.num_bytes / size.move.limit_bytes_per_second)
        table.add_row(f"{way.link.replace('_', ' ')}, {way.transport}", *cells, limit)
    return table


def _felt(outcome: "TransferBench") -> Iterable["RenderableType"]:
    felt = outcome.end_to_end
    if felt is None:
        return
    table = _make_table(
        f"end to end: {felt.prompt_tokens} prompt tokens, {felt.latent_steps} latent steps, "
        f"{format_bytes(felt.num_bytes)}, {felt.transport}, {felt.link.replace('_', ' ')}",
        ("thought to\nabsorbed", "exposed, as a\nrun tells it"),
        "",
    )
    for name, side in (("with overlap", felt.overlap), ("without", felt.no_overlap)):
        table.add_row(name, format_time(side.seconds), format_time(side.exposed_seconds))
    table.add_row("ratio", f"{felt.ratio:.1f} ×", "")
    yield table


def _make_table(title: str, columns: Iterable[str], first: str) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        title=title,
        title_justify="left",
        title_style="bold",
    )
    table.add_column(first, justify="right" if first else "left", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def format_time(seconds: float) -> str:
    """Two or three significant figures, also of microseconds: `85 µs`, `1.23 ms`, `12.3 ms`, `4.56 s`."""
    for unit, scale in (("µs", 1e6), ("ms", 1e3)):
        value = seconds * scale
        if value < 999.5:
            return f"{value:.0f} {unit}" if unit == "µs" or value >= 99.95 else f"{value:.3g} {unit}"
    return f"{seconds:.3g} s"


def _rate(bytes_per_second: float) -> str:
    rate = bytes_per_second / 1e9
    return f"{rate:.1f}" if rate >= 0.995 else f"{rate:.2g}"


def _speed(timing: "Timing") -> tuple[str, str]:
    """GB/s and % of the limit; who does not touch the bytes has no speed."""
    if timing.share_of_limit > _FAR_ABOVE:
        return "–", "> 200"
    return _rate(timing.bytes_per_second), f"{100 * timing.share_of_limit:.2g}"


def _sizes(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    # The length is looked at first: int() refuses very long numbers with an error of its own.
    if not all(part.isascii() and part.isdigit() and len(part) <= 12 for part in parts):
        raise ConfigError("tokens", text, "it must be whole numbers of at least 1, as in 64,1024,8192")
    return tuple(int(part) for part in parts)
