"""Bubblewrap: a program that makes namespaces and a root, where this user may not (but bubblewrap may).

Some systems allow user namespaces to listed programs only. Where bubblewrap is installed and one of them, it starts the
supervisor in a root as `isolation.py` makes it.
"""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

_DEVICES = "/dev/"


def find() -> str | None:
    """Return the path of bubblewrap. None without it, and for root, who needs none."""
    return None if os.geteuid() == 0 else shutil.which("bwrap")


def prefix(program: str, folder: str, folder_bytes: int, readable: Iterable[str]) -> list[str]:
    """Return the command to put before another one, so that it sees only `readable`, and `folder` as an empty writable
    folder in memory."""
    command = [program, "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    for path in readable:
        if Path(path).exists():
            command += ["--dev-bind" if path.startswith(_DEVICES) else "--ro-bind", path, path]
    command += ["--proc", "/proc", "--size", str(folder_bytes), "--perms", "0777", "--tmpfs", folder]
    return [*command, "--chdir", folder, "--"]
