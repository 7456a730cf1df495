"""From a validated configuration to a running system, and what to say when a run stops half way."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from latentmas_ray.config import RunConfig, is_url
from latentmas_ray.env import read_environment
from latentmas_ray.errors import RunError, UntrainedQuestionWarning
from latentmas_ray.seeds import seed_folders

if TYPE_CHECKING:
    from latentmas_ray.runs.results import Observer
    from latentmas_ray.system import LatentMAS


@contextmanager
def open_system(config: RunConfig, observer: "Observer") -> Iterator["LatentMAS"]:
    """The system of `config`, closed at the end. An error that stops the run leaves with a note on how to go on.

    Nothing may be printed to stdout meanwhile: Ray prints warnings of its nodes there, and they go to stderr.
    """
    read_environment()
    from latentmas_ray.system import LatentMAS  # takes seconds (torch, ray), so only once the flags are known good

    try:
        with redirect_stdout(sys.stderr), _warnings_as_notes(), LatentMAS(config, observer=observer) as system:
            yield system
    except (RunError, KeyboardInterrupt) as error:
        if config.output is not None and (is_url(config.output) or _has_results(Path(config.output))):
            error.add_note(f"what finished is in {config.output}; the same command with --resume goes on from there")
        raise


@contextmanager
def _warnings_as_notes() -> Iterator[None]:
    """Have the warning about questions that the embedded model was not trained for shown as one line on stderr."""
    show = warnings.showwarning

    def show_as_note(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, UntrainedQuestionWarning):
            typer.echo(f"note: {message}", err=True)
        else:
            show(message, category, *where, **more)

    with warnings.catch_warnings():
        warnings.simplefilter("always", UntrainedQuestionWarning)
        warnings.showwarning = show_as_note
        yield


def _has_results(output: Path) -> bool:
    return any((folder / "results.jsonl").exists() for folder in (output, *seed_folders(output).values()))
