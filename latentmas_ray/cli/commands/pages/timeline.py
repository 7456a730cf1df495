"""`latentmas timeline`: when and where the turns of a run ran, as a picture and as a trace."""

from pathlib import Path
from typing import Annotated

import typer

from latentmas_ray.cli.commands.pages.report import checked_page
from latentmas_ray.errors import ConfigError
from latentmas_ray.units import format_bytes


def timeline(
    run: Annotated[str, typer.Argument(metavar="RUN", help="output folder of a run", show_default=False)],
    output: Annotated[
        str | None,
        typer.Option("--output", metavar="FILE.html", help="where the page goes (default: timeline.html in RUN)"),
    ] = None,
) -> None:
    """Draw when and where each turn of a run ran, what was handed over, and which replicas were lost.

    Writes a page that needs no network and no other file, and next to it a trace for ui.perfetto.dev.
    """
    page = None if output is None else checked_page(output)
    write_files(run, page)


def write_files(run: str | Path, page: Path | None = None) -> None:
    """Write both files of a run and print a line for each. Raises JournalError, and ConfigError if they cannot be
    written."""
    from latentmas_ray.report import load_run  # nothing heavy before the flags are valid
    from latentmas_ray.report.timeline.page import PAGE_NAME, write_timeline

    found = load_run(run)
    page = found.folder / PAGE_NAME if page is None else page
    try:
        for path, size in write_timeline(found, page, page.with_suffix(".trace.json")):
            typer.echo(f"{path}: {format_bytes(size)}", err=True)
    except OSError as error:
        raise ConfigError("--output", str(page), f"it cannot be written: {error.strerror or error}") from error
