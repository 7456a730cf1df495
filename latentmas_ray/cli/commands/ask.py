"""`latentmas ask`: one question, one answer."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from latentmas_ray.cli.commands.asked import example_question, print_example, typed_question
from latentmas_ray.cli.launch import open_system
from latentmas_ray.cli.options import is_given, run_options
from latentmas_ray.cli.unused_flags import tell_unused
from latentmas_ray.config import RunConfig, RunSetting, warn_of_unused
from latentmas_ray.errors import ConfigError, MemoryInputError

if TYPE_CHECKING:
    from rich.console import Console

    from latentmas_ray.memory import Memory
    from latentmas_ray.runs.results import Answer


@run_options(
    "model",
    "models",
    "translation",
    "revision",
    "topology",
    "method",
    "latent_steps",
    "thoughts",
    "dtype",
    "device",
    "temperature",
    "top_p",
    "max_new_tokens",
    "seed",
    "samples",
    "decides",
    "decide_accuracies",
    "engine",
    "sampler",
    "placement",
    "tp",
    "threads",
    "transport",
    "transfer",
    "codec",
    "keep",
    "keep_by",
    "keep_layers",
    "overlap",
    "guard",
    "save_memory",
    "runtime",
    "address",
    "start_timeout",
    "otel",
)
def ask(
    config: RunConfig,
    context: typer.Context,
    question: Annotated[str | None, typer.Argument(metavar="QUESTION", help="what the agents are asked")] = None,
    example: Annotated[
        str | None,
        typer.Option("--example", metavar="chain|notes", help="ask a generated question instead, and show its gold"),
    ] = None,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="ask an embedded model questions that it was not trained for, too")
    ] = False,
    trace: Annotated[bool, typer.Option("--trace", help="also show what each agent did and thought")] = False,
    from_memory: Annotated[
        str | None,
        typer.Option("--from-memory", metavar="FILE", help="let the last agent answer from this working memory alone"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object: the answer and all its figures")] = False,
) -> None:
    """Ask one question and print the answer."""
    from latentmas_ray.cli.render.convergence import repetition_note_of
    from latentmas_ray.cli.render.cut_off import cut_off_warning_of
    from latentmas_ray.cli.render.progress import listen
    from latentmas_ray.cli.render.run_tables import print_answer, results_console

    if example is None:
        asked = typed_question(config, question, anyway=anyway, has_memory=from_memory is not None)
    else:
        _refuse_with_example(question, from_memory)
        asked = example_question(config, example, _given_seed(config, context))
    # Of a generated question the seed decides which one it is.
    given = asked.config.model_fields_set - ({"seed"} if asked.is_example else set())
    config = RunConfig.model_construct(given, **dict(asked.config))
    flags = {"trace": trace, "anyway": anyway, "as_json": as_json, "example": example, "model": config.model}
    tell_unused("ask", flags)
    console = results_console()
    if trace and not as_json:
        config = config.model_copy(update={"trace": 1})
    if from_memory is not None and config.save_memory is not None:
        expected = "it cannot be used with --from-memory, where no agent makes memory to save; leave one out"
        raise ConfigError("save_memory", config.save_memory, expected)
    memory = None
    if from_memory is not None:
        memory = _load(from_memory)
        warn_of_unused(RunSetting(config=config, from_memory=True), config.model_fields_set)
    with listen(config.method, brief=True) as listener, open_system(config, listener) as system:
        answers = list(system.map([asked.record], memory=memory))
    for answer in answers:
        if as_json:
            typer.echo(json.dumps(answer.to_row(), ensure_ascii=False))
            continue
        if trace:
            _print_trace(console, answer)
        if asked.is_example:
            print_example(console, answer, asked.notes)
        else:
            print_answer(console, answer)
    for line in (line for answer in answers for line in (*cut_off_warning_of(answer), *repetition_note_of(answer))):
        typer.echo(line, err=True)


def _print_trace(console: "Console", answer: "Answer") -> None:
    from latentmas_ray.cli.render.inspect_tables import agents_view
    from latentmas_ray.cli.render.run_tables import trace_tree

    console.print(trace_tree(answer))
    for part in agents_view(answer.trace.agents) if answer.trace else ():
        console.print(part)
    console.print()


def _refuse_with_example(question: str | None, from_memory: str | None) -> None:
    for field, value in (("QUESTION", question), ("from_memory", from_memory)):
        if value is not None:
            raise ConfigError(field, value, "it cannot be used with --example; give one of the two")


def _given_seed(config: RunConfig, context: typer.Context) -> int | None:
    return config.seed if is_given(context, "seed") else None


def _load(path: str) -> "Memory":
    """Load working memory from a file. Raises MemoryInputError."""
    from latentmas_ray.memory import Memory  # needs torch

    try:
        return Memory.load(path)
    except MemoryInputError as error:
        raise MemoryInputError("from_memory", error.value, error.expected) from error
