"""`latentmas bench transfer`: its flags, and its figures as tables."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from latentmas_ray.bench.transfer_settings import TransferBenchSettings
from latentmas_ray.cli.commands.bench.measure import measure_and_show
from latentmas_ray.cli.options import whole_numbers
from latentmas_ray.cli.unused_flags import tell_unused

if TYPE_CHECKING:
    from rich.console import RenderableType

    from latentmas_ray.bench.transfer import TransferBench


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
    repeats: Annotated[int | None, typer.Option("--repeats", metavar="N", help="per measurement (default: 5)")] = None,
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            metavar="ADDR",
            help="HOST:PORT of a running Ray cluster, or auto; without it that of RAY_ADDRESS, else one is started",
        ),
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
    """Measure the cost of moving working memory, against the limit of the link itself.

    Segments of a model's KV shape go from one cache to another, over every link (same process, same node, and another
    node of the cluster) and with every transport. docs/transfer.md explains the columns.
    SHAPE is a well-known model's shape: qwen3-0.6b, qwen3-1.7b, qwen3-4b, qwen3-8b, qwen3-14b, qwen3-32b.
    """
    given = {
        "model": model,
        "dtype": dtype,
        "tokens": None if tokens is None else whole_numbers("tokens", tokens, "64,1024,8192"),
        "transports": None if transports is None else tuple(name.strip() for name in transports.split(",")),
        "repeats": repeats,
        "address": address,
        "end_to_end": end_to_end,
        "prompt_tokens": prompt_tokens,
        "latent_steps": latent_steps,
        "plot": plot,
    }
    tell_unused("bench transfer", given)
    settings = TransferBenchSettings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    measure_and_show(partial(_measure, settings), _tables, _draw, plot=settings.plot, as_json=as_json)


def _measure(settings: TransferBenchSettings, say: Callable[[str], None]) -> "TransferBench":
    from latentmas_ray.bench.transfer import run  # torch and Ray: only once the flags are valid

    return run(settings, say)


def _tables(outcome: "TransferBench") -> "RenderableType":
    from latentmas_ray.cli.render.transfer_tables import transfer_tables

    return transfer_tables(outcome)


def _draw(outcome: "TransferBench", plot: str) -> None:
    from latentmas_ray.bench.plot import draw

    draw(outcome, plot)
