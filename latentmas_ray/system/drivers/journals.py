"""The journals of drivers: each driver appends to its own folder in the run's, whose journal takes the rows over.

A row is on disk in the driver's folder before the run's process knows of it. So a run that is killed, with all of its
processes or some, loses nothing: the next start takes over what the folders have.
"""

import re
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from latentmas_ray.config import RunConfig
from latentmas_ray.errors import JournalError, RunError
from latentmas_ray.runs.folder import FolderLock, read_file
from latentmas_ray.runs.journal import RESULTS_NAME, Journal
from latentmas_ray.runs.results import Answer
from latentmas_ray.runs.rows import decode_row
from latentmas_ray.runs.timeline import TIMELINE_NAME
from latentmas_ray.runs.traces import read_embeddings, read_traces
from latentmas_ray.tasks.question import Question

_FOLDER = re.compile(r"driver-[1-9]\d{0,2}", re.ASCII)
_END_SECONDS = 15.0  # for drivers whose run was killed, to end


def driver_folder(folder: Path, number: int) -> Path:
    """Return the folder of a driver, numbered from 0."""
    return folder / f"driver-{number + 1}"


def driver_folders(folder: Path) -> list[Path]:
    """Return the folders of drivers that are there."""
    if not folder.is_dir():
        return []
    return sorted(one for one in folder.iterdir() if _FOLDER.fullmatch(one.name) and one.is_dir())


class DriverRows:
    """Reads the rows of a driver's journal while it is written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._num_bytes = 0  # that were read
        self._seen: set[str] = set()

    def take(self, questions: Mapping[str, Question]) -> list[Answer]:
        """Return the answers since the last call, with their traces. Raises JournalError for a row that is none."""
        path = self._folder / RESULTS_NAME
        try:
            with path.open("rb") as file:
                file.seek(self._num_bytes)
                content = file.read()
        except FileNotFoundError:
            return []
        content = content[: content.rfind(b"\n") + 1]  # a row that is being written comes with the next call
        if not content:
            return []
        self._num_bytes += len(content)
        answers = [decode_row(line, str(path)) for line in content.splitlines()]
        fresh = [one for one in answers if one.id in questions and one.id not in self._seen]
        self._seen.update(one.id for one in fresh)
        return with_traces(self._folder, fresh)


def with_traces(folder: Path, answers: Sequence[Answer]) -> list[Answer]:
    """Return the answers with the traces that a driver has written for them. Raises JournalError for a damaged file."""
    if not (traces := read_traces(folder)):
        return list(answers)
    embeddings = read_embeddings(folder)
    return [
        replace(one, trace=replace(traces[one.id], embeddings=embeddings)) if one.id in traces else one
        for one in answers
    ]


def take_over(
    journal: Journal,
    config: RunConfig,
    questions: Sequence[Question],
    pinned: Mapping[str, str],
) -> None:
    """Take the answers of drivers over that an earlier start of the run has left in its folder, and remove theirs.

    Raises JournalError if there are some and the run does not resume, if they are those of another run, or if one of
    these drivers does not end.
    """
    for own in driver_folders(journal.folder):
        _wait_for_end(own)
        has_rows = (own / RESULTS_NAME).exists() and (own / RESULTS_NAME).stat().st_size > 0
        if has_rows and not config.resume:
            expected = (
                f"{own.name} has answers of an earlier start; add --resume to continue it, or choose another folder"
            )
            raise JournalError("output", str(journal.folder), expected)
        if has_rows:
            resumed = config.model_copy(update={"output": str(own), "resume": True})
            with Journal.open(own, resumed, questions, pinned=pinned) as left:
                known = {answer.id for answer in journal.answers}
                journal.adopt(with_traces(own, [one for one in left.answers if one.id not in known]))
        take_timeline(own, journal)
        remove_folder(own)


def finish_folders(journal: Journal) -> None:
    """Remove the folders of drivers that have ended their run, whose answers the journal has; keep their timelines."""
    for own in driver_folders(journal.folder):
        take_timeline(own, journal)
        remove_folder(own)


def take_timeline(own: Path, journal: Journal) -> None:
    """Add the rows of a driver's timeline to the run's."""
    try:
        journal.timeline.add_rows(read_file(own / TIMELINE_NAME))
    except (OSError, JournalError):  # no result: a run continues without it
        return


def remove_folder(own: Path) -> None:
    """Remove the folder of a driver, whose rows the run's journal has. Raises RunError."""
    try:
        shutil.rmtree(own)
    except OSError as error:
        raise RunError(f"{own} cannot be removed: {error.strerror or error}") from error


def _wait_for_end(own: Path) -> None:
    """Wait until no driver of a run that was killed writes there any more. Raises JournalError."""
    deadline = time.monotonic() + _END_SECONDS
    while True:
        try:
            FolderLock(own).close()
            return
        except JournalError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.2)
