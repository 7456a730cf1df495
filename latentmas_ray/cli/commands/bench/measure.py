"""A benchmark of the runtime from start to end: measured, then its figures on stdout and its plot."""

import contextlib
import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import typer

if TYPE_CHECKING:
    from rich.console import RenderableType


class BenchResult(Protocol):
    """What a benchmark has measured."""

    def to_json(self) -> dict[str, Any]:
        """All figures."""


Measured = TypeVar("Measured", bound=BenchResult)


def measure_and_show(
    measure: Callable[[Callable[[str], None]], Measured],
    tables: Callable[[Measured], "RenderableType"],
    draw: Callable[[Measured, str], None],
    *,
    plot: str | None,
    as_json: bool,
) -> None:
    """`measure` is given what tells a line of progress. Raises ConfigError at once if `plot` cannot be drawn."""
    if plot is not None:
        from latentmas_ray.bench.plot import check_matplotlib

        check_matplotlib(plot)
    # Ray prints warnings of its nodes, such as of many new processes, to stdout, and that is where the figures go.
    with contextlib.redirect_stdout(sys.stderr):
        outcome = measure(lambda line: typer.echo(line, err=True))
    if as_json:
        typer.echo(json.dumps(outcome.to_json(), indent=2))
    else:
        from latentmas_ray.cli.render.run_tables import results_console

        results_console().print(tables(outcome))
    if plot is not None:
        draw(outcome, plot)
