"""`python -m benchmarks abstractions`: flags, and the figures in a document."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from latentmas_ray.cli.options import whole_numbers


def abstractions(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="gets the runs; what is there is not run again")],
    model: Annotated[str, typer.Option(metavar="tiny|FOLDER|HUB_ID", help="of both agents")] = "tiny",
    dtype: Annotated[str, typer.Option(metavar="auto|float32|bfloat16", help="of the weights")] = "auto",
    tasks: Annotated[str, typer.Option(metavar="NAME,…", help="of chain, notes, facts")] = "chain,notes",
    sources: Annotated[str, typer.Option(metavar="NAME,…", help="who writes hints: own, oracle")] = "own,oracle",
    methods: Annotated[str, typer.Option(metavar="NAME,…", help="how they reach the solver")] = "text,latent",
    budget: Annotated[int, typer.Option(help="answers to each question: m · k", min=1)] = 4,
    hints: Annotated[str, typer.Option(metavar="M,M,…", help="hints of each question, divisors of it")] = "1,2,4",
    controls_at: Annotated[int | None, typer.Option(help="hints of the controls; the most, without it")] = None,
    limit: Annotated[int, typer.Option(help="questions of each task", min=2)] = 200,
    batch_size: Annotated[int, typer.Option(help="questions in one batch", min=1)] = 50,
    latent_steps: Annotated[int, typer.Option(help="thoughts of the abstraction agent", min=0)] = 10,
    temperature: Annotated[float, typer.Option(help="of hints and answers")] = 1.0,
    max_new_tokens: Annotated[int, typer.Option(help="of a hint, and of an answer", min=1)] = 96,
    seed: Annotated[int, typer.Option(help="of what is drawn", min=0)] = 42,
    document: Annotated[
        str | None,
        typer.Option(metavar="FILE.md", help="gets the tables, and the plot next to it; else they are printed"),
    ] = None,
) -> None:
    """Measure what hints are worth: own and written by the task, as text and as memory, over their number at a constant
    number of answers, with all controls."""
    from benchmarks.abstractions.settings import HintBenchSettings

    settings = HintBenchSettings(
        folder=folder,
        model=model,
        dtype=dtype,
        tasks=tuple(tasks.split(",")),
        sources=tuple(sources.split(",")),
        methods=tuple(methods.split(",")),
        budget=budget,
        hints=whole_numbers("hints", hints, "1,2,4"),
        controls_at=controls_at,
        limit=limit,
        batch_size=batch_size,
        latent_steps=latent_steps,
        temperature=temperature,
        max_new_tokens=max_new_tokens,
        seed=seed,
    )
    from benchmarks.abstractions.document import part_of, table, write

    if document is not None:
        part_of(model).check(Path(document))
    from benchmarks.abstractions.measure import measure  # torch and transformers: only once the flags are known good

    figures = measure(settings, lambda line: typer.echo(line, err=True))
    if document is None:
        typer.echo("\n".join(table(figures, settings)))
        return
    flags = f"--model {shlex.quote(Path(model).name)} --dtype {dtype} --tasks {tasks} --budget {budget} --hints {hints}"
    sizes = f"--limit {limit} --batch-size {batch_size} --latent-steps {latent_steps} --temperature {temperature:g}"
    sizes += f" --max-new-tokens {max_new_tokens} --seed {seed}"
    write(Path(document), figures, settings, f"python -m benchmarks abstractions FOLDER {flags} {sizes}")
