"""`latentmas doctor`: what this machine has, what a model can do, and what will work."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from latentmas_ray.cli.errors import EXIT_FAILED
from latentmas_ray.config.choices import DTypeName
from latentmas_ray.env import read_environment
from latentmas_ray.errors import ConfigError

if TYPE_CHECKING:
    from latentmas_ray.cli.checks import Check

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def doctor(
    address: Annotated[
        str | None,
        typer.Option(
            "--address", metavar="ADDR", help="HOST:PORT of the Ray cluster to look for, or auto (default: RAY_ADDRESS)"
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="tiny|FOLDER|HUB_ID", help="show what this model can do, and nothing else"),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option("--dtype", metavar="auto|float32|bfloat16", help="the model's (default: its own)")
    ] = None,
    revision: Annotated[
        str | None, typer.Option("--revision", metavar="TEXT", help="branch, tag or commit of a hub id")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of a table")] = False,
) -> None:
    """Show what this machine has and what will work on it; with --model what a model can do before anything runs.

    Exit code 1 when something needed is missing, or the model cannot collaborate."""
    from latentmas_ray.cli.checks import Mark

    if model is None:
        for field, value in (("dtype", dtype), ("revision", revision)):
            if value is not None:
                raise ConfigError(field, value, "it says how to read a model: give --model, or leave it out")
        checks = _machine(address)
        content: object = [{"mark": one.mark, "subject": one.subject, "finding": one.finding} for one in checks]
    else:
        if address is not None:
            raise ConfigError("address", address, "with --model nothing is looked for on a cluster: leave it out")
        if dtype is not None and dtype not in get_args(DTypeName):
            raise ConfigError("dtype", dtype, f"it must be one of {', '.join(get_args(DTypeName))}")
        checks, content = _model(model, dtype or "auto", revision)
    if as_json:
        typer.echo(json.dumps(content, indent=2, ensure_ascii=False))
    else:
        _print(checks)
    if any(check.mark is Mark.FAIL for check in checks):
        raise typer.Exit(EXIT_FAILED)


def _machine(address: str | None) -> "list[Check]":
    from latentmas_ray.cli.checks import cluster_check, machine_checks, outlook, software_checks

    environment = read_environment()
    checks = [*software_checks(), *machine_checks(environment), cluster_check(address or environment.ray_address)]
    return [*checks, *outlook(checks)]


def _model(name: str, dtype: str, revision: str | None) -> "tuple[list[Check], object]":
    from latentmas_ray.cli.model_checks import abilities_json, model_checks
    from latentmas_ray.models.abilities import find_abilities  # needs transformers, which takes seconds to import

    found = find_abilities(name, dtype=dtype, revision=revision)
    return list(model_checks(found)), abilities_json(found)


def _print(checks: "Sequence[Check]") -> None:
    from rich.text import Text

    from latentmas_ray.cli.render.fitted import FittedTable
    from latentmas_ray.cli.render.run_tables import results_console

    table = FittedTable(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        table.add_row(Text(check.mark, style=_STYLES[check.mark]), check.subject, Text(check.finding))
    results_console().print(table)
