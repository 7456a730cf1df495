"""`latentmas doctor`: what this machine has, and what will work on it."""

from typing import Annotated

import typer

from latentmas_ray.cli.errors import EXIT_FAILED
from latentmas_ray.env import read_environment

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def doctor(
    address: Annotated[
        str | None,
        typer.Option(
            "--address", metavar="ADDR", help="HOST:PORT of the Ray cluster to look for, or auto (default: RAY_ADDRESS)"
        ),
    ] = None,
) -> None:
    """Show what this machine has and what will work on it.

    Exit code 1 when something needed is missing."""
    from rich.text import Text

    from latentmas_ray.cli.checks import Mark, cluster_check, machine_checks, outlook, software_checks
    from latentmas_ray.cli.render.fitted import FittedTable
    from latentmas_ray.cli.render.run_tables import results_console

    environment = read_environment()
    checks = [*software_checks(), *machine_checks(environment), cluster_check(address or environment.ray_address)]
    checks += outlook(checks)
    table = FittedTable(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        table.add_row(Text(check.mark, style=_STYLES[check.mark]), check.subject, Text(check.finding))
    results_console().print(table)
    if any(check.mark is Mark.FAIL for check in checks):
        raise typer.Exit(EXIT_FAILED)
