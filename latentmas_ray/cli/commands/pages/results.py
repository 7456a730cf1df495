"""`latentmas results`: one table of all measured runs below some folders."""

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from latentmas_ray.errors import ConfigError
from latentmas_ray.paths import expand_home

_ENDING = ".md"


def results(
    folders: Annotated[
        list[str], typer.Argument(metavar="FOLDER…", help="runs are looked for in these and below", show_default=False)
    ],
    markdown: Annotated[
        str | None, typer.Option("--markdown", metavar="FILE.md", help="write the table as a page, too")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of a table")] = False,
) -> None:
    """List all measured runs: settings, accuracy, gains over controls, costs, the command.

    Runs that are not finished or cannot be read are named and left out.
    """
    path = None if markdown is None else _checked_file(markdown)
    from latentmas_ray.cli.render.results_tables import results_table
    from latentmas_ray.cli.render.run_tables import results_console
    from latentmas_ray.report.results import find_results, result_rows, to_markdown

    found = find_results(folders)
    rows = result_rows(found.runs)
    if path is not None:
        named = " ".join(map(shlex.quote, folders))
        _write(path, to_markdown(rows, found, f"latentmas results {named} --markdown {shlex.quote(str(markdown))}"))
    if as_json:
        runs = [row.to_json() for row in rows]
        left_out = [asdict(one) for one in found.left_out]
        typer.echo(json.dumps({"runs": runs, "left_out": left_out}, indent=2, ensure_ascii=False))
    elif rows:
        results_console().print(results_table(rows))
    for one in found.left_out:
        typer.echo(f"note: left out {one.folder}: {one.why}", err=True)
    if path is not None:
        typer.echo(f"{path}: {len(rows)} {'run' if len(rows) == 1 else 'runs'}", err=True)


def _checked_file(markdown: str) -> Path:
    path = Path(expand_home("--markdown", markdown))
    try:
        is_file, has_folder = path.suffix.lower() == _ENDING and not path.is_dir(), path.parent.is_dir()
    except OSError as error:  # such as a name that is too long
        raise ConfigError("--markdown", markdown, f"it cannot be written: {error.strerror or error}") from error
    if not is_file:
        raise ConfigError("--markdown", markdown, f"it must be a file that ends in {_ENDING}")
    if not has_folder:
        raise ConfigError("--markdown", markdown, f"its folder must exist: {path.parent}")
    return path


def _write(path: Path, text: str) -> None:
    from latentmas_ray.runs.folder import write_atomically

    try:
        write_atomically(path, text.encode(errors="replace"))
    except OSError as error:
        raise ConfigError("--markdown", str(path), f"it cannot be written: {error.strerror or error}") from error
