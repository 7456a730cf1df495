"""`latentmas bench transfer`: its flags, and its figures as tables."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentmas_ray.bench.matrix.settings import MatrixSettings
from latentmas_ray.bench.transfer_settings import TransferBenchSettings
from latentmas_ray.cli.commands.bench.measure import measure_and_show
from latentmas_ray.cli.options import parsed_number, whole_numbers
from latentmas_ray.cli.unused_flags import tell_unused
from latentmas_ray.config import DEFAULT_LATENT_STEPS
from latentmas_ray.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from latentmas_ray.bench.matrix.figures import MatrixBench
    from latentmas_ray.bench.transfer import TransferBench


Model = Annotated[
    str | None, typer.Option("--model", metavar="SHAPE|tiny|FOLDER|HUB_ID", help="whose KV shape (default: qwen3-0.6b)")
]
Dtype = Annotated[str | None, typer.Option("--dtype", metavar="auto|float32|bfloat16", help="(default: bfloat16)")]
Tokens = Annotated[
    str | None, typer.Option("--tokens", metavar="T,T,…", help="segment sizes (default: of 1 … 32768 what fits)")
]
Transports = Annotated[
    str | None, typer.Option("--transports", metavar="NAME,NAME,…", help="(default: all that work here)")
]
Repeats = Annotated[str | None, typer.Option("--repeats", metavar="N", help="per measurement (default: 5)")]
Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="ADDR",
        help="HOST:PORT of a running Ray cluster, or auto; without it that of RAY_ADDRESS, else one is started",
    ),
]
EndToEndFlag = Annotated[
    bool, typer.Option("--end-to-end/--no-end-to-end", help="let two agents hand over, with overlap and without")
]
PromptTokens = Annotated[
    str | None, typer.Option("--prompt-tokens", metavar="N", help="end to end: of the writer (default: 1000)")
]
LatentSteps = Annotated[
    str | None,
    typer.Option("--latent-steps", metavar="N", help=f"end to end: of the writer (default: {DEFAULT_LATENT_STEPS})"),
]
Pairs = Annotated[
    str | None,
    typer.Option("--pairs", metavar="nodes|all", help="measure each pair of nodes, or of GPUs and nodes, instead"),
]
Concurrent = Annotated[
    str | None, typer.Option("--concurrent", metavar="K", help="with --pairs: senders to one reader (default: 4)")
]
Plot = Annotated[
    str | None, typer.Option("--plot", metavar="FILE.png", help="draw bandwidth over size, or the matrix of --pairs")
]
AsJson = Annotated[bool, typer.Option("--json", help="print the figures as JSON")]


def transfer(
    model: Model = None,
    dtype: Dtype = None,
    tokens: Tokens = None,
    transports: Transports = None,
    repeats: Repeats = None,
    address: Address = None,
    end_to_end: EndToEndFlag = True,
    prompt_tokens: PromptTokens = None,
    latent_steps: LatentSteps = None,
    pairs: Pairs = None,
    concurrent: Concurrent = None,
    plot: Plot = None,
    as_json: AsJson = False,
) -> None:
    """Measure the cost of moving working memory, against the limit of the link itself.

    Segments of a model's KV shape go from one cache to another, over every link (same process, same node, and another
    node of the cluster) and with every transport. With --pairs it is a matrix of the whole cluster: each pair alone,
    K senders to one reader, and all to all; slow links are named. docs/transfer.md explains the columns.
    SHAPE is a well-known model's shape: qwen3-0.6b, qwen3-1.7b, qwen3-4b, qwen3-8b, qwen3-14b, qwen3-32b.
    """
    given = {
        "model": model,
        "dtype": dtype,
        "tokens": None if tokens is None else whole_numbers("tokens", tokens, "64,1024,8192"),
        "transports": None if transports is None else tuple(name.strip() for name in transports.split(",")),
        "repeats": _whole("repeats", repeats),
        "address": address,
        "end_to_end": end_to_end,
        "prompt_tokens": _whole("prompt_tokens", prompt_tokens),
        "latent_steps": _whole("latent_steps", latent_steps),
        "pairs": pairs,
        "concurrent": _whole("concurrent", concurrent),
        "plot": plot,
    }
    tell_unused("bench transfer", given)
    if pairs is not None:
        matrix = _matrix_settings(given, pairs)
        measure_and_show(partial(_measure_matrix, matrix), _matrix_tables, _draw_matrix, plot=plot, as_json=as_json)
        return
    own = {name: value for name, value in given.items() if value is not None and name not in ("pairs", "concurrent")}
    settings = TransferBenchSettings(**own)  # type: ignore[arg-type]
    measure_and_show(partial(_measure, settings), _tables, _draw, plot=settings.plot, as_json=as_json)


def _whole(field: str, text: str | None) -> float | None:
    return None if text is None else parsed_number(field, text, int)


def _matrix_settings(given: Mapping[str, Any], pairs: str) -> MatrixSettings:
    """Return the settings of a matrix from the flags. Raises ConfigError for several sizes or transports."""
    values = {name: given[name] for name in ("model", "dtype", "repeats", "address", "plot")}
    for name, field in (("tokens", "tokens"), ("transports", "transport")):
        several = given[name]
        if several is not None and len(several) != 1:
            raise ConfigError(name, ",".join(map(str, several)), "with --pairs it must be one, for all pairs")
        values[field] = None if several is None else several[0]
    values |= {"pairs": pairs, "concurrent": given["concurrent"]}
    return MatrixSettings(**{name: value for name, value in values.items() if value is not None})


def _measure(settings: TransferBenchSettings, say: Callable[[str], None]) -> "TransferBench":
    from latentmas_ray.bench.transfer import run  # torch and Ray: only once the flags are valid

    return run(settings, say)


def _tables(outcome: "TransferBench") -> "RenderableType":
    from latentmas_ray.cli.render.bench.transfer_tables import transfer_tables

    return transfer_tables(outcome)


def _draw(outcome: "TransferBench", plot: str) -> None:
    from latentmas_ray.bench.plot import draw

    draw(outcome, plot)


def _measure_matrix(settings: MatrixSettings, say: Callable[[str], None]) -> "MatrixBench":
    from latentmas_ray.bench.matrix.measure import run_matrix

    return run_matrix(settings, say)


def _matrix_tables(outcome: "MatrixBench") -> "RenderableType":
    from latentmas_ray.cli.render.bench.matrix_tables import matrix_tables

    return matrix_tables(outcome)


def _draw_matrix(outcome: "MatrixBench", plot: str) -> None:
    from latentmas_ray.bench.matrix.plot import draw_matrix

    draw_matrix(outcome, plot)
