"""Runs a benchmark, then prints its figures to stdout and draws its plot."""

import contextlib
import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import typer

from latentmas_ray.paths import expand_home

if TYPE_CHECKING:
    from rich.console import RenderableType


class BenchResult(Protocol):
    """The result of a benchmark."""

    def to_json(self) -> dict[str, Any]:
        """Return all figures."""


Measured = TypeVar("Measured", bound=BenchResult)


def measure_and_show(
    measure: Callable[[Callable[[str], None]], Measured],
    tables: Callable[[Measured], "RenderableType"],
    draw: Callable[[Measured, str], None],
    *,
    plot: str | None,
    as_json: bool,
) -> None:
    """Run `measure` with a function that prints a line of progress, then show its result.

    Raises ConfigError before the measurement if `plot` cannot be drawn.
    """
    if plot is not None:
        from latentmas_ray.bench.plot import check_matplotlib

        plot = expand_home("plot", plot)
        check_matplotlib(plot)
    # Ray prints warnings of its nodes to stdout, where the figures go.
    with contextlib.redirect_stdout(sys.stderr):
        outcome = measure(lambda line: typer.echo(line, err=True))
    if as_json:
        typer.echo(json.dumps(outcome.to_json(), indent=2))
    else:
        from latentmas_ray.cli.render.run_tables import results_console

        results_console().print(tables(outcome))
    if plot is not None:
        draw(outcome, plot)
