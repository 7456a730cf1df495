"""`latentmas report`: an HTML page about finished runs."""

from pathlib import Path
from typing import Annotated

import typer

from latentmas_ray.errors import ConfigError
from latentmas_ray.paths import expand_home
from latentmas_ray.units import format_bytes

_ENDINGS = (".html", ".htm")


def report(
    runs: Annotated[list[str], typer.Argument(metavar="DIR…", help="output folders of runs", show_default=False)],
    output: Annotated[str, typer.Option("--output", metavar="FILE.html", help="where the page goes")] = "report.html",
    published: Annotated[
        bool,
        typer.Option("--published/--no-published", help="also show published figures of the same models"),
    ] = True,
) -> None:
    """Write one self-contained HTML page about one run or several.

    It compares accuracy, tokens and time, and shows where the time goes, what was handed over, which answers differ
    between runs, and what each agent did on every question. The page needs no network and no other file.
    """
    path = checked_page(output)
    from latentmas_ray.report.html import make_page
    from latentmas_ray.report.runs import load_runs, with_controls
    from latentmas_ray.runs.folder import write_atomically  # nothing heavy before the flags are valid

    found = [load_runs(folder) for folder in _checked_folders(with_controls(runs))]
    content = make_page(found, with_published=published).encode(errors="replace")
    try:
        write_atomically(path, content)
    except OSError as error:
        raise ConfigError("--output", output, f"it cannot be written: {error.strerror or error}") from error
    plural = "run" if len(found) == 1 else "runs"
    typer.echo(f"{path}: {len(found)} {plural}, {format_bytes(len(content))}")


def checked_page(output: str) -> Path:
    """Return the path. Raises ConfigError unless a page can be written there."""
    path = Path(expand_home("--output", output))
    try:
        is_file = path.suffix.lower() in _ENDINGS and not path.is_dir()
        has_folder = path.parent.is_dir()
    except OSError as error:  # such as a name that is longer than names can be
        raise ConfigError("--output", output, f"it cannot be written: {error.strerror or error}") from error
    if not is_file:
        raise ConfigError("--output", output, "it must be a file that ends in .html")
    if not has_folder:
        raise ConfigError("--output", output, f"its folder must exist: {path.parent}")
    return path


def _checked_folders(runs: list[str]) -> list[str]:
    """Return the folders. Raises ConfigError if one is given twice."""
    places = []
    for folder in runs:
        try:
            places.append(Path(expand_home("run", folder)).resolve())
        except (OSError, RuntimeError) as error:  # RuntimeError: links that go round in a circle
            raise ConfigError("run", folder, "there is no such folder; give the output folder of a run") from error
    for index, (folder, place) in enumerate(zip(runs, places, strict=True)):
        if place in places[:index]:
            raise ConfigError("run", folder, "it is given twice; give every output folder once")
    return runs
