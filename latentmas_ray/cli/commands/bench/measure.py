"""Runs a benchmark, then prints its figures to stdout, draws its plot and writes its files."""

import contextlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import typer

from latentmas_ray.errors import ConfigError
from latentmas_ray.paths import expand_home

if TYPE_CHECKING:
    from rich.console import RenderableType


_FILE_WIDTH = 100


class BenchResult(Protocol):
    """The result of a benchmark."""

    def to_json(self) -> dict[str, Any]:
        """Return all figures."""


Measured = TypeVar("Measured", bound=BenchResult)


def measure_and_show(
    measure: Callable[[Callable[[str], None]], Measured],
    tables: Callable[[Measured], "RenderableType"],
    draw: Callable[[Measured, str], None] | None = None,
    *,
    plot: str | None = None,
    output: str | None = None,
    as_json: bool,
) -> Measured:
    """Run `measure` with a function that prints a line of progress, then show its result and return it.

    The folder `output` gets the figures as `figures.json` and the tables as `figures.txt`. Raises ConfigError before
    the measurement if `plot` cannot be drawn or `output` cannot be made.
    """
    folder = None if output is None else _make_folder(output)
    if plot is not None:
        from latentmas_ray.bench.plot import check_matplotlib

        plot = expand_home("plot", plot)
        check_matplotlib(plot)
    # Ray prints warnings of its nodes to stdout, where the figures go.
    with contextlib.redirect_stdout(sys.stderr):
        outcome = measure(lambda line: typer.echo(line, err=True))
    figures = json.dumps(outcome.to_json(), indent=2)
    if as_json:
        typer.echo(figures)
    else:
        from latentmas_ray.cli.render.run_tables import results_console

        results_console().print(tables(outcome))
    if folder is not None:
        from rich.console import Console

        (folder / "figures.json").write_text(figures + "\n")
        with (folder / "figures.txt").open("w") as file:
            Console(file=file, width=_FILE_WIDTH, highlight=False).print(tables(outcome))
    if plot is not None and draw is not None:
        draw(outcome, plot)
    return outcome


def _make_folder(output: str) -> Path:
    if not output.strip():
        raise ConfigError("output", output, "it must be the name of a folder")
    folder = Path(expand_home("output", output))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError("output", output, f"it must be a folder that can be made: {error.strerror}") from None
    return folder
