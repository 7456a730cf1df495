"""`latentmas ask`: one question, one answer."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from latentmas_ray.cli.launch import open_system
from latentmas_ray.cli.options import run_options
from latentmas_ray.config import RunConfig
from latentmas_ray.errors import ConfigError, MemoryInputError

if TYPE_CHECKING:
    from latentmas_ray.memory import Memory


@run_options(
    "model",
    "revision",
    "topology",
    "method",
    "latent_steps",
    "realign",
    "dtype",
    "device",
    "temperature",
    "top_p",
    "max_new_tokens",
    "seed",
    "placement",
    "tp",
    "transport",
    "handover",
    "codec",
    "overlap",
    "guard",
    "save_memory",
    "runtime",
    "address",
)
def ask(
    config: RunConfig,
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="what the agents are asked")],
    trace: Annotated[bool, typer.Option("--trace", help="also show what each agent did and thought")] = False,
    from_memory: Annotated[
        str | None,
        typer.Option("--from-memory", metavar="FILE", help="let the last agent answer from this working memory alone"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object: the answer and all its figures")] = False,
) -> None:
    """Ask one question and print the answer."""
    from latentmas_ray.cli.inspect_tables import agents_view
    from latentmas_ray.cli.progress import watch
    from latentmas_ray.cli.tables import print_answer, results_console, trace_tree

    if not question.strip():
        raise ConfigError("QUESTION", question, "it must not be empty")
    console = results_console()
    if trace and not as_json:
        config = config.model_copy(update={"trace": 1})
    memory = None if from_memory is None else _load(from_memory)
    with watch(config.method, brief=True) as watcher, open_system(config, watcher) as system:
        answers = list(system.run([question]) if memory is None else system.map([question], memory=memory))
    for answer in answers:
        if as_json:
            typer.echo(json.dumps(answer.to_row(), ensure_ascii=False))
            continue
        if trace:
            console.print(trace_tree(answer))
            for part in agents_view(answer.trace.agents) if answer.trace else ():
                console.print(part)
            console.print()
        print_answer(console, answer)


def _load(path: str) -> "Memory":
    """The working memory of a file. Raises MemoryInputError."""
    from latentmas_ray.memory import Memory  # needs torch

    try:
        return Memory.load(path)
    except MemoryInputError as error:
        raise MemoryInputError("from_memory", error.value, error.expected) from error
