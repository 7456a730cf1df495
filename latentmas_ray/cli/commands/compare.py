"""`latentmas compare`: compare finished runs, question by question."""

import json
from typing import Annotated

import typer

from latentmas_ray.cli.unused_flags import tell_unused


def compare(
    folders: Annotated[list[str], typer.Argument(metavar="DIR…", help="output folders of runs, or of seeds of runs")],
    base: Annotated[
        str | None, typer.Option("--base", metavar="DIR", help="what the others are compared with; default: the first")
    ] = None,
    answers: Annotated[
        bool, typer.Option("--answers", help="name the questions that only one of two got right")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the comparison as JSON instead of tables")] = False,
) -> None:
    """Compare finished runs: accuracy, cost, paired differences, gains over controls."""
    from latentmas_ray.cli.render.compare_tables import answer_lists, comparison_tables
    from latentmas_ray.cli.render.run_tables import results_console
    from latentmas_ray.report.compare import compare_folders

    tell_unused("compare", {"answers": answers, "as_json": as_json})
    comparison = compare_folders(folders, base)
    if as_json:
        typer.echo(json.dumps(comparison.to_json(), indent=2, ensure_ascii=False))
        return
    results_console().print(comparison_tables(comparison))
    if answers:
        typer.echo("\n".join(["", *answer_lists(comparison.pairs)]))
