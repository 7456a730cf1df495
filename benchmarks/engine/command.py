"""`python -m benchmarks engine`: flags, and the figures as a table."""

import json
from typing import Annotated

import typer

from latentmas_ray.cli.options import whole_numbers


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
    from benchmarks.engine.settings import EngineBenchSettings

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
    from benchmarks.engine.measure import run  # torch and transformers: only once the flags are known good

    outcome = run(settings, lambda line: typer.echo(line, err=True))
    if as_json:
        typer.echo(json.dumps(outcome.to_json(), indent=2))
        return
    from benchmarks.engine.tables import engine_table
    from latentmas_ray.cli.render.run_tables import results_console

    results_console().print(engine_table(outcome))
