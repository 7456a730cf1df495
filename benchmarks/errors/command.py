"""`python -m benchmarks errors`: flags, and the figures in a document."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from latentmas_ray.cli.options import whole_numbers


def errors(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="gets the runs; what is there is not run again")],
    model: Annotated[str, typer.Option(metavar="tiny|FOLDER|HUB_ID", help="the model of all agents")] = "tiny",
    tasks: Annotated[str, typer.Option(metavar="NAME,…", help="of notes, chain, facts")] = "notes,chain",
    between: Annotated[str, typer.Option(metavar="N,N,…", help="agents between the first and the last")] = "0,1,2,4",
    guards: Annotated[str, typer.Option(metavar="NAME,…", help="of the latent agents: off, warn, drop, text")] = (
        "off,drop"
    ),
    limit: Annotated[int, typer.Option(help="questions of each setting", min=2)] = 400,
    batch_size: Annotated[int, typer.Option(help="questions in one batch", min=1)] = 100,
    latent_steps: Annotated[int, typer.Option(help="latent thoughts per latent agent", min=0)] = 10,
    max_new_tokens: Annotated[int, typer.Option(help="bound on decoded tokens per agent", min=1)] = 256,
    document: Annotated[
        str | None, typer.Option(metavar="FILE.md", help="gets the table, and the plot next to it; else it is printed")
    ] = None,
) -> None:
    """Measure how often an answer adopts what the first agent of a chain was told wrongly, in text and in latent space.

    The first agent gets a wrong version of each question, those between and the last one the right one. Each chain also
    runs without the error.
    """
    from benchmarks.errors.settings import ErrorsBenchSettings

    settings = ErrorsBenchSettings(
        folder=folder,
        model=model,
        tasks=tuple(tasks.split(",")),
        between=whole_numbers("between", between, "0,1,2"),
        guards=tuple(guards.split(",")),
        limit=limit,
        batch_size=batch_size,
        latent_steps=latent_steps,
        max_new_tokens=max_new_tokens,
    )
    from benchmarks.errors.document import part_of, table, write

    if document is not None:
        part_of(model).check(Path(document))
    from benchmarks.errors.measure import measure  # torch and transformers: only once the flags are known good

    figures = measure(settings, lambda line: typer.echo(line, err=True))
    if document is None:
        typer.echo("\n".join(table(figures)))
        return
    flags = f"--model {shlex.quote(Path(model).name)} --tasks {tasks} --between {between} --guards {guards}"
    sizes = f"--limit {limit} --batch-size {batch_size} --latent-steps {latent_steps} --max-new-tokens {max_new_tokens}"
    write(Path(document), figures, settings, f"python -m benchmarks errors FOLDER {flags} {sizes}")
