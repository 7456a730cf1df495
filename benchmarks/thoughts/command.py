"""`python -m benchmarks thoughts`: its flags."""

import re
import shlex
from pathlib import Path
from typing import Annotated

import typer

from latentmas_ray.cli.options import whole_numbers

RULES = "realign,identity,soft,blend,noise"


def split_rules(rules: str) -> tuple[str, ...]:
    """Split `realign,soft:temperature=0.7,top_k=50`: a comma before a parameter belongs to its rule."""
    return tuple(part for part in re.split(r"\s+|,(?!\s*[a-z_]+=)", rules) if part)


def thoughts(
    model: Annotated[str, typer.Option(metavar="tiny|FOLDER|HUB_ID", help="what thinks")] = "tiny",
    task: Annotated[str, typer.Option(metavar="NAME|FILE", help="the questions")] = "notes",
    topology: Annotated[str, typer.Option(metavar="NAME|FILE.yaml", help="the agents")] = "hierarchical",
    rules: Annotated[str, typer.Option(metavar="RULE,RULE,…", help="thought rules, also with spaces between")] = RULES,
    steps: Annotated[str, typer.Option(metavar="M,M,…", help="latent steps")] = "0,1,2,5,10,20,40",
    controls: Annotated[str, typer.Option(metavar="NAME,NAME,…", help="memory: matched and its controls")] = (
        "matched,deranged,none"
    ),
    limit: Annotated[int, typer.Option(help="questions of a cell", min=2)] = 200,
    batch_size: Annotated[int, typer.Option(help="questions in one batch", min=1)] = 50,
    max_new_tokens: Annotated[int | None, typer.Option(help="bound of a text; without it the task's", min=1)] = None,
    dtype: Annotated[str, typer.Option(metavar="auto|float32|bfloat16", help="of the weights")] = "auto",
    output: Annotated[Path, typer.Option(metavar="DIR", help="a folder for each cell; complete ones are read")] = Path(
        "runs/thoughts"
    ),
    block: Annotated[
        int | None, typer.Option(help="questions that all cells answer before the next; without it all of them", min=2)
    ] = None,
    no_run: Annotated[bool, typer.Option("--no-run", help="only write what is complete in the folder")] = False,
    document: Annotated[Path | None, typer.Option(metavar="FILE.md", help="that gets the table and the plot")] = None,
) -> None:
    """Compare thought rules over numbers of latent steps, with memory controls, on one loaded model.

    Started again with the same folder it continues; with another model it adds a table. With --block the table has the
    questions that every cell has answered, and a later run with a larger --limit answers only those that are new.
    """
    from benchmarks.shared_memory.team import shares_memory, team_topology  # needs torch
    from benchmarks.thoughts.cells import ThoughtBenchSettings, run_cells
    from benchmarks.thoughts.document import prepare_document, write_table
    from benchmarks.thoughts.figures import complete_blocks
    from benchmarks.thoughts.shared_cells import run_shared_cells
    from latentmas_ray.errors import ConfigError

    settings = ThoughtBenchSettings(
        model=model,
        task=task,
        topology=topology,
        rules=split_rules(rules),
        steps=whole_numbers("steps", steps, "0,1,2"),
        controls=tuple(name.strip() for name in controls.split(",")),
        limit=limit,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        dtype=dtype,
        output=output,
        block=block,
    )
    is_shared = shares_memory(team_topology(settings.config("realign", "matched")))
    if block is not None and not is_shared:
        raise ConfigError("block", block, "it needs latent agents that read no other agent")
    if no_run and is_shared and not complete_blocks(settings):
        raise ConfigError("output", str(output), "with --no-run it must have questions that every cell has answered")
    if document is not None:
        prepare_document(settings, document)
    if not no_run:
        run = run_shared_cells if is_shared else run_cells
        run(settings, lambda line: typer.echo(line))
    if document is not None:
        flags = {"model": Path(model).name, "task": task, "topology": topology, "rules": rules, "steps": steps}
        flags |= {"controls": controls, "limit": str(limit)} | ({} if block is None else {"block": str(block)})
        command = " ".join(f"--{name} {shlex.quote(value)}" for name, value in flags.items())
        write_table(settings, document, f"python -m benchmarks thoughts {command}")
