"""The output folder on disk: created, locked, and written so that a crash never leaves a partial file."""

import contextlib
import fcntl
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from latentmas_ray.errors import JournalError

_LOG = logging.getLogger(__name__)
LOCK_NAME = ".lock"


def make_folder(folder: Path) -> None:
    """Create `folder` if it does not exist. Raises JournalError if it is a file or cannot be created."""
    if folder.exists() and not folder.is_dir():
        raise JournalError("output", str(folder), "it is a file; give a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JournalError("output", str(folder), f"the folder cannot be created: {error.strerror}") from error


def lock_folder(folder: Path) -> IO[bytes]:
    """Lock the folder for this process, until the returned file is closed or the process ends.

    Raises JournalError if another run has locked it, or if it is not writable.
    """
    try:
        lock = (folder / LOCK_NAME).open("ab")
    except OSError as error:
        raise JournalError("output", str(folder), f"the folder cannot be written to: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise JournalError(
            "output", str(folder), "another run is writing into this folder; wait until it ends or choose another"
        ) from None
    except OSError as error:
        # Some cluster file systems have no locks; runs must still work there.
        _LOG.warning("%s cannot be locked (%s): make sure that only one run writes there", folder, error.strerror)
    return lock


def write_atomically(path: Path, content: bytes) -> None:
    """Replace the content of `path`: after a crash it holds either the old bytes or the new ones."""
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    _sync_folder(path.parent)


def encode_row(row: Mapping[str, Any]) -> bytes:
    """Return `row` as one line of JSON with its line break."""
    try:
        return json.dumps(row, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:
        # A question file may hold a lone surrogate, which only an escape can encode.
        return json.dumps(row).encode() + b"\n"


def append_durably(path: Path, content: bytes) -> None:
    """Append `content` and wait until it is on disk. On failure the file is unchanged."""
    with path.open("ab", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        try:
            view = memoryview(content)
            while view:
                view = view[file.write(view) :]
            os.fsync(file.fileno())
        except BaseException:
            with contextlib.suppress(OSError):
                file.truncate(end)
            raise
    if end == 0:
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Sync new names in `folder` to disk, if the file system supports it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
