"""`latentmas tasks`: the names that `--task` accepts, and their settings."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from latentmas_ray.config import MAX_NEW_TOKENS
from latentmas_ray.tasks import BENCHMARKS, Benchmark, answer_form
from latentmas_ray.tasks.files import GENERATED_TASKS, NUM_GENERATED, load_questions
from latentmas_ray.tasks.question import KINDS


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
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of a table")] = False,
) -> None:
    """List the tasks: questions, kind of answer, bound on new tokens, source."""
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
        "\nA file of the same fields does as well: --task FILE.jsonl[.gz]; its records' task decides the settings.",
        soft_wrap=True,
    )


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
            num_questions=NUM_GENERATED if name in GENERATED_TASKS else len(questions),
            max_new_tokens=MAX_NEW_TOKENS,
            answer_form=" ".join(map(answer_form, kinds)),
            source="built in",
            hub={},
        )
