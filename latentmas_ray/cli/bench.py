"""`latentmas bench …`: measurements."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from latentmas_ray.cli.bench_scaling import scaling
from latentmas_ray.cli.bench_transfer import transfer
from latentmas_ray.cli.errors import CommandGroup
from latentmas_ray.cli.numbers import whole_numbers
from latentmas_ray.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from rich.console import RenderableType

    from benchmarks.engine import BatchFigures, EngineBench

bench_app = typer.Typer(cls=CommandGroup, rich_markup_mode=None, help="Measure: each figure beside a reference.")
bench_app.command("transfer")(transfer)
bench_app.command("scaling")(scaling)


@bench_app.callback()
def _bench() -> None:
    """Measure: each figure beside a reference that runs in the same process and time."""


@bench_app.command("engine")
def engine(
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="SHAPE|tiny|FOLDER|HUB_ID", help="what to measure (default: qwen3-0.6b)"),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option("--dtype", metavar="auto|float32|bfloat16", help="(default: bfloat16)")
    ] = None,
    device: Annotated[str | None, typer.Option("--device", metavar="auto|cpu|cuda[:N]", help="(default: auto)")] = None,
    batch_size: Annotated[
        str | None, typer.Option("--batch-size", metavar="B,B,…", help="batch sizes (default: 1,8)")
    ] = None,
    num_agents: Annotated[
        int | None, typer.Option("--num-agents", metavar="N", help="latent agents (default: 3)")
    ] = None,
    latent_steps: Annotated[
        int | None, typer.Option("--latent-steps", metavar="N", help="latent thoughts per agent (default: 40)")
    ] = None,
    prompt_tokens: Annotated[
        int | None, typer.Option("--prompt-tokens", metavar="N", help="tokens of the longest prompt (default: 200)")
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option("--max-new-tokens", metavar="N", help="tokens that are decoded (default: 32)")
    ] = None,
    repeats: Annotated[
        int | None, typer.Option("--repeats", metavar="N", help="pairs of measurements (default: 3)")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the figures as JSON")] = False,
) -> None:
    """Measure one engine against the loop that one would write first.

    A chain of latent agents and one that decodes, on one model: the engine with segments and a cache in place, and
    plain transformers with full forwards, all hidden states and logits, and a cache that grows by concatenation.
    SHAPE is a well-known model's shape with random weights: qwen3-0.6b, qwen3-1.7b, qwen3-4b, qwen3-8b, qwen3-14b.
    """
    from benchmarks.engine_settings import EngineBenchSettings

    given = {
        "model": model,
        "dtype": dtype,
        "device": device,
        "batch_sizes": None if batch_size is None else whole_numbers("batch_size", batch_size, "1,8"),
        "num_agents": num_agents,
        "latent_steps": latent_steps,
        "prompt_tokens": prompt_tokens,
        "max_new_tokens": max_new_tokens,
        "repeats": repeats,
    }
    settings = EngineBenchSettings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    from benchmarks.engine import run  # torch and transformers: only once the flags are known good

    outcome = run(settings, lambda line: typer.echo(line, err=True))
    if as_json:
        typer.echo(json.dumps(outcome.to_json(), indent=2))
        return
    from latentmas_ray.cli.tables import results_console

    results_console().print(_table(outcome))


def _table(outcome: "EngineBench") -> "RenderableType":
    from rich import box
    from rich.console import Group
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("batch", no_wrap=True)
    table.add_column("", style="bold", no_wrap=True)
    for title in ("whole\nchain", "prefill", "latent\nstep", "decoded\ntoken", "extra\nmemory"):
        table.add_column(title, justify="right", no_wrap=True)
    for batch in outcome.batches:
        for row in _rows(batch):
            table.add_row(*row)
        table.add_section()
    settings = outcome.settings
    title = (
        f"{settings.model}: {outcome.machine}; {settings.num_agents} agents × {settings.latent_steps} latent steps, "
        f"then {settings.max_new_tokens} tokens; medians of {settings.repeats}"
    )
    return Group("", title, table)


def _rows(batch: "BatchFigures") -> list[tuple[str, ...]]:
    rows = [
        (
            str(batch.batch_size) if name == "engine" else "",
            name,
            format_seconds(side.seconds),
            format_seconds(side.phases["prefill"]),
            format_seconds(side.seconds_per_latent_step),
            format_seconds(side.seconds_per_decoded_token),
            format_bytes(side.extra_bytes),
        )
        for name, side in (("engine", batch.engine), ("loop", batch.baseline))
    ]
    return [*rows, ("", "ratio", f"{batch.speedup:.2f} × faster", "", "", "", f"{batch.memory_ratio:.2f} ×")]
