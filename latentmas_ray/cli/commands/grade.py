"""`latentmas grade`: grade an existing results file again."""

import json
from pathlib import Path
from typing import Annotated

import typer

from latentmas_ray.cli.render.text import printable
from latentmas_ray.cli.unused_flags import tell_unused
from latentmas_ray.config import is_url
from latentmas_ray.errors import ConfigError
from latentmas_ray.paths import expand_home
from latentmas_ray.units import format_percent

_MAX_SHOWN = 20


def grade(
    task: Annotated[str, typer.Option("--task", metavar="NAME|FILE", help="the task whose answers they are")],
    results: Annotated[
        str, typer.Option("--results", metavar="FILE.jsonl[.gz]", help="answers, one JSON object a line")
    ],
    output: Annotated[
        str | None, typer.Option("--output", metavar="FILE.jsonl", help="write the rows with their new grades here")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the output file if it exists")] = False,
    unsafe_programs: Annotated[
        bool, typer.Option("--unsafe-programs", help="run code also where this machine cannot confine it")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the figures as JSON")] = False,
) -> None:
    """Grade an existing results file again; nothing is changed unless --output says so."""
    from latentmas_ray.runs.rescore import check_results, rescore
    from latentmas_ray.tasks import check_graders, grade_unconfined, load_questions
    from latentmas_ray.tasks import grade as grade_confined

    tell_unused("grade", {"overwrite": overwrite, "output": output})
    target = None if output is None else _checked(output, overwrite=overwrite)
    results = expand_home("results", results)
    check_results(Path(results))  # before the task, which may be on the hub
    questions = load_questions(task)
    check_graders(questions, unsafe_programs=unsafe_programs)
    by_id = {question.id: question for question in questions}
    outcome = rescore(Path(results), by_id, grade_unconfined if unsafe_programs else grade_confined)
    if target is not None:
        outcome.write(target)
    if outcome.is_cut:
        typer.echo(f"note: the last line of {printable(results)} is cut off, and left out", err=True)
    if as_json:
        typer.echo(json.dumps(outcome.to_json(), indent=2, ensure_ascii=False))
        return
    before, after = (
        "none graded" if accuracy is None else format_percent(accuracy) for accuracy in (outcome.was, outcome.accuracy)
    )
    changed = f"{len(outcome.changes)} {'grade' if len(outcome.changes) == 1 else 'grades'} changed"
    typer.echo(f"{len(outcome.rows)} answers, accuracy {after} (was {before}), {changed}")
    for change in outcome.changes[:_MAX_SHOWN]:
        typer.echo(f"  {printable(str(change))}")
    if len(outcome.changes) > _MAX_SHOWN:
        typer.echo(f"  … and {len(outcome.changes) - _MAX_SHOWN} more")
    if target is not None:
        typer.echo(f"written to {target}")


def _checked(output: str, *, overwrite: bool) -> Path:
    """Return the path of the output. Raises ConfigError before grading, which may take minutes."""
    path = Path(expand_home("output", output))
    try:
        is_elsewhere = is_url(output) or path.is_dir() or (path.exists() and not path.is_file())
    except OSError as error:  # such as a name that is longer than names can be
        raise ConfigError("output", output, f"it cannot be written: {error.strerror or error}") from error
    if is_elsewhere:
        raise ConfigError("output", output, "it must be a file on this machine")
    if not path.parent.is_dir():
        raise ConfigError("output", output, f"its folder must exist: {path.parent}")
    if path.name == "results.jsonl" and (path.parent / "config.yaml").exists():
        expected = "it belongs to a run, and its summary.json would no longer match; choose another file"
        raise ConfigError("output", output, expected)
    if path.exists() and not overwrite:
        raise ConfigError("output", output, "the file exists already; choose another, or add --overwrite")
    return path
