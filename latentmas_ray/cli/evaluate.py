"""`latentmas eval`: a whole task, graded, journaled and summed up."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from latentmas_ray.cli.errors import EXIT_FAILED
from latentmas_ray.cli.launch import open_system
from latentmas_ray.cli.options import run_options
from latentmas_ray.cli.text import shorten
from latentmas_ray.config import RunConfig

if TYPE_CHECKING:
    from latentmas_ray.cli.progress import RunWatcher

_MAX_FAILURE_CHARS = 200


@run_options()
def evaluate(
    config: RunConfig,
    as_json: Annotated[bool, typer.Option("--json", help="print the summary as JSON instead of tables")] = False,
) -> None:
    """Answer a task's questions, grade the answers, sum up."""
    from latentmas_ray.cli.progress import watch
    from latentmas_ray.cli.tables import results_console, summary_table

    with watch(config.method) as watcher, open_system(config, watcher) as system:
        summary = system.evaluate()
    if as_json:
        typer.echo(json.dumps(summary.to_json(), indent=2, ensure_ascii=False))
    else:
        results_console().print(summary_table(summary))
    if summary.num_failed:
        _name_failures(watcher, summary.num_failed, config.output)
        raise typer.Exit(EXIT_FAILED)


def _name_failures(watcher: "RunWatcher", num_failed: int, output: str | None) -> None:
    """Each failed question on one line of stderr, the first ones only, and where all of them are."""
    typer.echo(f"error: {num_failed} {'question' if num_failed == 1 else 'questions'} failed", err=True)
    for failure in watcher.failures:
        line = f"{failure.id} ({failure.agent}): {failure.error}"
        typer.echo("  " + shorten(line, _MAX_FAILURE_CHARS), err=True)
    if num_failed > len(watcher.failures):
        typer.echo(f"  … and {num_failed - len(watcher.failures)} more", err=True)
    if output is not None:
        typer.echo(f"  all are in {output.rstrip('/')}/failures.jsonl; --resume tries them again", err=True)
