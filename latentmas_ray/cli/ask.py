"""`latentmas ask`: one question, one answer."""

import json
from typing import Annotated

import typer

from latentmas_ray.cli.asked import Asked, example_question, print_example, typed_question
from latentmas_ray.cli.launch import open_system
from latentmas_ray.cli.options import run_options
from latentmas_ray.config import RunConfig
from latentmas_ray.errors import ConfigError


@run_options(
    "model",
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
    "runtime",
    "address",
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
        bool, typer.Option("--anyway", help="ask the embedded model also what it was not trained for")
    ] = False,
    trace: Annotated[bool, typer.Option("--trace", help="also show what each agent did and thought")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object: the answer and all its figures")] = False,
) -> None:
    """Ask one question and print the answer."""
    from latentmas_ray.cli.inspect_tables import agents_view
    from latentmas_ray.cli.progress import watch
    from latentmas_ray.cli.tables import print_answer, results_console, trace_tree

    asked = _asked(config, context, question, example, anyway)
    config = asked.config
    console = results_console()
    if trace and not as_json:
        config = config.model_copy(update={"trace": 1})
    with watch(config.method, brief=True) as watcher, open_system(config, watcher) as system:
        answers = list(system.run([asked.record]))
    for answer in answers:
        if as_json:
            typer.echo(json.dumps(answer.to_row(), ensure_ascii=False))
            continue
        if trace:
            console.print(trace_tree(answer))
            for part in agents_view(answer.trace.agents) if answer.trace else ():
                console.print(part)
            console.print()
        if asked.is_example:
            print_example(console, answer, asked.notes)
        else:
            print_answer(console, answer)


def _asked(config: RunConfig, context: typer.Context, question: str | None, example: str | None, anyway: bool) -> Asked:
    """The question that was typed, or an example. Raises ConfigError where there is neither or both."""
    if example is None:
        if question is None:
            raise ConfigError("QUESTION", "nothing", "give the question in quotes, or --example chain")
        return typed_question(config, question, anyway=anyway)
    if question is not None:
        raise ConfigError("QUESTION", question, "it cannot stand beside --example; give one of the two")
    source = context.get_parameter_source("seed")
    has_seed = source is not None and source.name == "COMMANDLINE"
    return example_question(config, example, config.seed if has_seed else None)
