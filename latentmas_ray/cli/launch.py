"""Opens the system of a validated configuration; if a run stops early, adds a note on how to resume it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from latentmas_ray.config import RunConfig, is_url
from latentmas_ray.env import read_environment
from latentmas_ray.errors import RunError, hide_password
from latentmas_ray.runs.controls.names import control_folders
from latentmas_ray.seeds import seed_folders

if TYPE_CHECKING:
    from latentmas_ray.cli.render.progress import ConsoleListener
    from latentmas_ray.system import LatentMAS


@contextmanager
def open_system(config: RunConfig, listener: "ConsoleListener") -> Iterator["LatentMAS"]:
    """Yield the system of `config`, observed by `listener`, and close it. An error that stops the run gets a note on
    how to resume.

    During the body stdout is redirected to stderr, since Ray prints warnings of its nodes to stdout.
    """
    read_environment()
    from latentmas_ray.cli.render.progress import heartbeat
    from latentmas_ray.system import LatentMAS  # takes seconds (torch, ray), so only once the flags are valid

    try:
        with (
            redirect_stdout(sys.stderr),
            LatentMAS(config, observer=listener) as system,
            heartbeat(listener, system.running_turns),
        ):
            yield system
    except (RunError, KeyboardInterrupt) as error:
        if config.output is not None and (is_url(config.output) or _has_results(Path(config.output))):
            place = hide_password(config.output)
            error.add_note(f"what finished is in {place}; the same command with --resume continues from there")
        raise


def _has_results(output: Path) -> bool:
    folders = [output, *control_folders(output).values()]
    return any(
        (one / "results.jsonl").exists() for folder in folders for one in (folder, *seed_folders(folder).values())
    )
