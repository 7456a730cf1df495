"""Paths that users give, and files that are complete or not there.

`~` and `~user` at the beginning of a path are home folders, also where no shell has expanded them: a shell leaves
`--output=~/runs` and a value in Python or YAML as they are.
"""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from latentmas_ray.errors import ConfigError, InputError


def with_home(path: str) -> str:
    """Return `path` with the home folder in place of a `~` or `~user` at its beginning.

    Raises ValueError, with what would be right, for an unknown user and for a user without a home.
    """
    if not path.startswith("~"):
        return path
    expanded = os.path.expanduser(path)  # noqa: PTH111 - keeps the rest of the text as it is
    if expanded.startswith("~"):
        user = path.partition("/")[0][1:]
        problem = f"there is no user {user!r} on this machine" if user else "this user has no home folder"
        raise ValueError(f"{problem}; give a whole path, or ./{path} for a name that begins with ~")
    return expanded


def expand_home(field: str, path: str, error: type[InputError] = ConfigError) -> str:
    """Like `with_home`, for a value of `field`. Raises `error`."""
    try:
        return with_home(path)
    except ValueError as problem:
        raise error(field, path, str(problem)) from None


@contextlib.contextmanager
def replacement_of(path: Path, temporary_name: str, mode: int | None = None) -> Iterator[IO[bytes]]:
    """Yield a temporary file that replaces `path` when the body has ended and the bytes are on disk: after a crash
    `path` holds either the old content or the new one.

    `temporary_name` contains `{}` for random characters. The file is new, with a name that cannot be guessed, so no
    link that was put there is followed. `mode` are its permissions whatever the umask is. Raises OSError.
    """
    temporary = path.with_name(temporary_name.format(secrets.token_hex(8)))
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o666 if mode is None else mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if mode is not None:
                os.fchmod(descriptor, mode)
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Sync new names in `folder` to disk, if the file system supports it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
