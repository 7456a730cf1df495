"""The output folder on disk: created, locked, read, and written so that a crash never leaves a partial file.

Whatever is in a file, or in its place, reading it ends in a value or in one of the errors named here.
"""

import contextlib
import fcntl
import json
import logging
import math
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import yaml

from latentmas_ray.errors import JournalError, RunError
from latentmas_ray.paths import replacement_of, sync_folder

_LOG = logging.getLogger(__name__)
LOCK_NAME = ".lock"
_TEMPORARY = ".latentmas-{}.new"
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_MAX_DIGITS = 18  # of a whole number: more are no count, and would not fit into a float
_MAX_YAML_BYTES = 1_000_000
_MAX_YAML_NESTING = 20


def make_folder(folder: Path) -> None:
    """Create `folder` if it does not exist. Raises JournalError if it is a file or cannot be created."""
    try:
        if folder.exists() and not folder.is_dir():
            raise JournalError("output", str(folder), "it is a file; give a folder")
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:  # ValueError: a zero byte
        if isinstance(error, JournalError):
            raise
        raise JournalError("output", str(folder), f"the folder cannot be created: {_reason(error)}") from error


def check_folder_name(output: str) -> None:
    """Raise JournalError for a name that no folder can have, or that cannot be looked up."""
    try:
        Path(output).stat()
    except (FileNotFoundError, NotADirectoryError):
        return  # it is created, or that is refused, when it is opened
    except (OSError, ValueError) as error:
        raise JournalError("output", output, f"the folder cannot be used: {_reason(error)}") from error


class FolderLock:
    """The lock of a folder for this process, until it is closed or the process ends."""

    def __init__(self, folder: Path, name: str = LOCK_NAME) -> None:
        """`name` is that of the lock file. Raises JournalError if another run has locked the folder, or if it is not
        writable."""
        self._folder, self._name = folder, name
        self._file = _lock(folder, name)

    def check(self) -> None:
        """Notice that something removed the lock file, and lock the folder again.

        Raises RunError if another run has locked it in the meantime, or if the folder is gone.
        """
        if self._file.closed:
            return
        own = os.fstat(self._file.fileno())
        path = self._folder / self._name
        try:
            found = os.lstat(path)
            if (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino):
                return
        except OSError:
            pass
        try:
            fresh = _lock(self._folder, self._name)
        except JournalError as error:
            raise RunError(f"{path} was removed while this run wrote there, and {error.expected}") from error
        self._file.close()
        self._file = fresh
        _LOG.warning("%s was removed while this run writes there: the folder is locked again", path)

    def close(self) -> None:
        """Unlock the folder. Safe to call twice."""
        self._file.close()


def _lock(folder: Path, name: str) -> IO[bytes]:
    try:
        lock = open_regular(folder / name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
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


def check_regular(paths: Iterable[Path]) -> None:
    """Raise JournalError if one of these exists and is no regular file: opening a pipe would wait for its other end.
    Raises OSError."""
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            _check_mode(path, path.stat().st_mode)


def open_regular(path: Path, flags: int) -> IO[bytes]:
    """Open a regular file without a buffer. Raises JournalError for anything else, and OSError."""
    check_regular([path])
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY, 0o666)
    try:
        _check_mode(path, os.fstat(descriptor).st_mode)
        mode = {os.O_RDONLY: "rb", os.O_WRONLY: "wb"}.get(flags & os.O_ACCMODE, "r+b")
        return os.fdopen(descriptor, mode, buffering=0)
    except BaseException:
        os.close(descriptor)
        raise


def _check_mode(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = next((name for matches, name in _KINDS if matches(mode)), "no file")
        raise JournalError(str(path), kind, "it must be a regular file")


def read_file(path: Path) -> bytes:
    """Return the content of a regular file. Raises JournalError for anything else, and OSError."""
    with open_regular(path, os.O_RDONLY) as file:
        return file.read()


def read_json(content: bytes, *, allows_nan: bool = False) -> Any:
    """Return the value of a JSON text. Raises ValueError for anything else: also for nesting that is too deep, for
    numbers of more than 18 digits and, unless `allows_nan`, for those that are not finite."""
    hooks: dict[str, Any] = {"parse_int": _whole_number}
    if not allows_nan:
        hooks |= {"parse_float": _finite_number, "parse_constant": _finite_number}
    try:
        return json.loads(content, **hooks)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _whole_number(text: str) -> int:
    if len(text.lstrip("-")) > _MAX_DIGITS:
        raise ValueError(f"a number has more than {_MAX_DIGITS} digits")
    return int(text)


def _finite_number(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is not a number")
    return number


class _PlainYAML(yaml.SafeLoader):
    """Without aliases, which make a small file a large value, and without deep nesting; no run writes them."""

    _nesting = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed")
        if self._nesting >= _MAX_YAML_NESTING:
            raise yaml.YAMLError("it is nested too deeply")
        self._nesting += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._nesting -= 1


def read_yaml(content: bytes) -> Any:
    """Return the value of a YAML text without aliases and deep nesting. Raises ValueError for anything else."""
    if len(content) > _MAX_YAML_BYTES:
        raise ValueError(f"it has more than {_MAX_YAML_BYTES} bytes")
    try:
        return yaml.load(content, _PlainYAML)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except (yaml.YAMLError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        # The constructors of tagged values, such as !!int and !!timestamp, raise what they meet.
        raise ValueError(str(error)) from error


def write_atomically(path: Path, content: bytes) -> None:
    """Replace the content of `path`, see `replacement_of`. Raises OSError."""
    with replacement_of(path, _TEMPORARY) as file:
        file.write(content)


def write_summary(path: Path, values: Mapping[str, Any]) -> None:
    """Write summary.json. Raises RunError if it cannot be written."""
    try:
        write_atomically(path, json.dumps(values, indent=2).encode() + b"\n")
    except OSError as error:
        raise RunError(f"the summary cannot be written to {path}: {error.strerror or error}") from error


def remove_temporary_files(folder: Path) -> None:
    """Remove what killed runs have left in a locked folder. Raises OSError."""
    for path in folder.glob(_TEMPORARY.format("*")):
        path.unlink(missing_ok=True)


def encode_row(row: Mapping[str, Any]) -> bytes:
    """Return `row` as one line of JSON with its line break."""
    try:
        return json.dumps(row, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:
        # A question file may hold a lone surrogate, which only an escape can encode.
        return json.dumps(row).encode() + b"\n"


def append_durably(path: Path, content: bytes) -> None:
    """Append rows like `append`, and wait until they are on disk."""
    append(path, content, is_durable=True)


def append(path: Path, content: bytes, *, is_durable: bool = False) -> None:
    """Append `content`, which are rows. On failure the file is unchanged. Raises OSError, and JournalError unless it is
    a regular file.

    If something has cut the file in the middle of a row, the rest of that row is removed: no row may follow it.
    """
    with open_regular(path, os.O_RDWR | os.O_CREAT | os.O_APPEND) as file:
        end = _end_of_rows(file)
        try:
            view = memoryview(content)
            while view:
                view = view[file.write(view) :]
            if is_durable:
                os.fsync(file.fileno())
        except BaseException:
            with contextlib.suppress(OSError):
                file.truncate(end)
            raise
    if end == 0 and is_durable:
        sync_folder(path.parent)


def _end_of_rows(file: IO[bytes]) -> int:
    """Return the size of the file, without a row that does not end, which is removed."""
    end = file.seek(0, os.SEEK_END)
    if end == 0 or os.pread(file.fileno(), 1, end - 1) == b"\n":
        return end
    file.seek(0)
    rest = file.read().rpartition(b"\n")[0]
    end = len(rest) + 1 if rest else 0
    file.truncate(end)
    return end


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
