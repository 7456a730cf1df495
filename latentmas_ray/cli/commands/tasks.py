"""`latentmas tasks`: the names that `--task` accepts and their settings, or how the records of one were understood."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentmas_ray.cli.render.text import printable
from latentmas_ray.config import MAX_NEW_TOKENS
from latentmas_ray.tasks import BENCHMARKS, Benchmark, answer_form, task_max_new_tokens
from latentmas_ray.tasks.files import GENERATED_TASKS, NUM_GENERATED, load_questions
from latentmas_ray.tasks.question import KINDS

if TYPE_CHECKING:
    from latentmas_ray.tasks.description import TaskDescription


@dataclass(frozen=True, kw_only=True)
class TaskRow:
    """One task of the list; `hub` is empty for built-in tasks."""

    name: str
    title: str
    kind: str
    num_questions: int
    max_new_tokens: int
    answer_form: str
    source: str
    hub: dict[str, Any]


def tasks(
    task: Annotated[
        str | None, typer.Argument(metavar="[NAME|FILE]", help="show how the records of this task are understood")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of a table")] = False,
) -> None:
    """List the tasks: questions, kind of answer, bound on new tokens, source; of one: kind, fields, first prompt."""
    if task is not None:
        _describe(task, as_json=as_json)
        return
    rows = [*map(_of_benchmark, BENCHMARKS), *_built_in()]
    if as_json:
        typer.echo(json.dumps([vars(row) for row in rows], indent=2, ensure_ascii=False))
        return
    from rich import box
    from rich.text import Text

    from latentmas_ray.cli.render.fitted import FittedTable
    from latentmas_ray.cli.render.run_tables import results_console

    table = FittedTable(box=box.SIMPLE_HEAD, padding=(0, 1))
    for title in ("task", "questions", "kind", "new tokens", "source"):
        table.add_column(title, justify="right" if title in ("questions", "new tokens") else "left", overflow="fold")
    for row in rows:
        cells = (row.name, str(row.num_questions), row.kind, str(row.max_new_tokens), row.source)
        table.add_row(*map(Text, cells))
    console = results_console()
    console.print(table)
    for kind in KINDS:  # including those of files
        console.print(Text(f"{kind}: {answer_form(kind)}"), soft_wrap=True)
    console.print(
        "\nA file does as well: --task FILE.jsonl[.gz]; its records' task decides the settings. "
        "latentmas tasks FILE shows how its records are understood.",
        soft_wrap=True,
    )


def _describe(task: str, *, as_json: bool) -> None:
    """Print how the records of a task are understood, and the prompt that one agent alone gets for the first."""
    from latentmas_ray.tasks.description import describe_task
    from latentmas_ray.topology import RenderedPrompts, builtin_for, load_topology

    described = describe_task(task)
    topology = load_topology(builtin_for(task, "single"))
    prompt = RenderedPrompts.of(topology, [described.first]).get(topology.agents[0], described.first, "")
    if as_json:
        messages = {"first_prompt": list(prompt.messages)}
        typer.echo(json.dumps(described.to_json() | messages, indent=2, ensure_ascii=False))
        return
    for name, value in _understood(described):
        typer.echo(f"{name:<10}{printable(value)}")
    gold = "tests" if described.first.kind == "code" else described.first.gold or "none"
    typer.echo(f"\nfirst question {printable(described.first.id)}, gold {printable(gold)}:")
    for message in prompt.messages:
        typer.echo(f"\n[{message['role']}]\n{printable(message['content'])}")


def _understood(one: "TaskDescription") -> Iterator[tuple[str, str]]:
    """Yield the rows that say what a task's records are."""
    yield "task", f"{one.name}: {one.num_records} records, {one.num_questions} questions"
    yield "kind", _listed(one.kinds, one.num_questions)
    if one.question_fields:  # of records, which generated tasks do not have
        yield "id", _listed(one.id_fields, one.num_questions) or "the number of the record"
        yield "question", _listed(one.question_fields, one.num_questions)
        sizes = " or ".join(map(str, one.num_options))
        yield "options", f"{_listed(one.option_fields, one.num_questions)}: {sizes} each" if sizes else "none"
    gold = f"{one.gold}; " if one.gold else ""
    yield "gold", f"{gold}{one.num_golds} of {one.num_questions} have one"
    if one.other_fields:
        yield "not shown", ", ".join(one.other_fields)
    for note in one.notes:
        yield "note", note


def _listed(counts: Mapping[str, int], total: int) -> str:
    """Return the names, with their counts where they are not those of all."""
    return ", ".join(name if count == total else f"{name} ({count})" for name, count in counts.items())


def _of_benchmark(one: Benchmark) -> TaskRow:
    config = f" ({one.config})" if one.config else ""
    gated = ", gated" if one.is_gated else ""
    return TaskRow(
        name=one.name,
        title=one.title,
        kind=one.kind,
        num_questions=one.num_questions,
        max_new_tokens=one.max_new_tokens,
        answer_form=answer_form(one.kind),
        source=f"{one.hub_id}{config}, {one.split}{gated}",
        hub={
            "id": one.hub_id,
            "config": one.config,
            "split": one.split,
            "revision": one.revision,
            "gated": one.is_gated,
            "licence": one.licence,
            "aliases": list(one.aliases),
        },
    )


def _built_in() -> Iterator[TaskRow]:
    for name in ("sample", *GENERATED_TASKS):
        questions = load_questions(name, limit=64)
        kinds = [kind for kind in sorted(KINDS) if any(question.kind == kind for question in questions)]
        yield TaskRow(
            name=name,
            title=name,
            kind=", ".join(kinds),
            num_questions=NUM_GENERATED.get(name, len(questions)),
            max_new_tokens=task_max_new_tokens(questions) or MAX_NEW_TOKENS,
            answer_form=" ".join(map(answer_form, kinds)),
            source="built in",
            hub={},
        )
