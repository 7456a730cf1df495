"""Paths that users give: `~` and `~user` at their beginning are home folders, also where no shell has expanded them.

A shell leaves `--output=~/runs` and a value in Python or YAML as they are.
"""

import os

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
