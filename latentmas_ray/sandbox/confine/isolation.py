"""Namespaces, and a root of its own: no network, no other processes, and only the files that Python needs.

The new root is a file system in memory. In it are the files that Python needs, bound read-only at their usual places,
and one writable folder. Nothing else of this machine has a name in it: no sockets, no homes, no other temporary files.
"""

import os
import struct
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from latentmas_ray.sandbox.confine import system_calls as kernel

_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_PRIVATE = 0x2, 0x4, 0x1000, 0x4000, 0x40000
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_MOUNT_ATTR_RDONLY, _MOUNT_ATTR_NOSUID = 0x1, 0x2
_NUM_FILES = 4096
_MAX_STEPS = 400  # of a path, with its links
_SYSTEM_PREFIXES = ("/", "/usr", "/usr/local", "/home", "/root", "/opt")  # too much to show as a whole
_SYSTEM_FILES = (
    *("/usr/lib", "/usr/lib64", "/usr/bin", "/usr/local/lib", "/usr/share/zoneinfo", "/lib", "/lib64", "/bin"),
    *("/nix/store", "/etc/ld.so.cache", "/etc/localtime", "/sys/devices/system/cpu"),
    *("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"),
)
_PACKAGE_FOLDERS = ("site-packages", "dist-packages", "lib-dynload")


@dataclass(frozen=True, kw_only=True)
class Isolation:
    """The namespaces that this machine allowed."""

    has_own_user: bool  # a user namespace: its processes are counted separately
    has_no_network: bool
    has_own_processes: bool  # a process namespace, in which the next child is the first process


# Of a process that bubblewrap has started: namespaces and a root of its own.
INSIDE = Isolation(has_own_user=True, has_no_network=True, has_own_processes=True)


def isolate() -> Isolation:
    """Enter new namespaces where the machine allows it. A process that is not root first creates a user namespace."""
    uid, gid = os.geteuid(), os.getegid()  # read first: a new user namespace does not map them yet
    has_own_user = uid != 0 and _unshared(kernel.CLONE_NEWUSER) and _map_user(uid, gid)
    has_no_network = _unshared(kernel.CLONE_NEWNET)
    _unshared(kernel.CLONE_NEWIPC)
    has_own_processes = _unshared(kernel.CLONE_NEWPID)  # this process itself stays outside
    return Isolation(has_own_user=has_own_user, has_no_network=has_no_network, has_own_processes=has_own_processes)


def readable_paths() -> tuple[str, ...]:
    """Return what Python needs to run, and nothing of this machine's users: not the folders of `sys.path` that hold
    a user's own code (a checkout, the caller's folder)."""
    paths = sysconfig.get_paths()
    places = [*_SYSTEM_FILES, sys.executable, *(paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib"))]
    places += [prefix for prefix in (sys.prefix, sys.base_prefix) if prefix not in _SYSTEM_PREFIXES]
    places += [path for path in sys.path if Path(path).name in _PACKAGE_FOLDERS]
    home = os.path.expanduser("~")  # noqa: PTH111 - has an answer for users without a name too
    return tuple(dict.fromkeys(path for path in places if path and path not in ("/", home)))


def enter_root(folder: str, folder_bytes: int, readable: Iterable[str]) -> bool:
    """Move this process into a root of its own, which shows `readable`, and `folder` as an empty writable one. Return
    False if the machine does not allow it; then nothing has changed. Changes to `folder`.

    Raises OSError if it fails halfway.
    """
    if not _unshared(kernel.CLONE_NEWNS):
        return False
    try:
        kernel.mount("none", "/", "", _MS_REC | _MS_PRIVATE)
        # Mounted on the folder itself: nothing else needs to exist, and outside nothing is seen of it.
        kernel.mount("tmpfs", folder, "tmpfs", _MS_NOSUID | _MS_NODEV, f"size=1m,nr_inodes={_NUM_FILES},mode=0755")
        _fill(folder, readable)
        own = Path(folder + folder)
        own.mkdir(parents=True, exist_ok=True)
        options = f"size={folder_bytes},nr_inodes={_NUM_FILES},mode=0777"
        kernel.mount("tmpfs", str(own), "tmpfs", _MS_NOSUID | _MS_NODEV, options)
    except OSError:
        return False
    os.chdir(folder)
    kernel.pivot_root(".", ".")
    kernel.detach(".")
    os.chdir("/")
    _set_attributes("/", _AT_RECURSIVE, add=_MOUNT_ATTR_RDONLY | _MOUNT_ATTR_NOSUID)
    _set_attributes(folder, 0, remove=_MOUNT_ATTR_RDONLY)
    os.chdir(folder)
    return True


def _fill(root: str, readable: Iterable[str]) -> None:
    """Bind each path into the new root, once."""
    shown: list[str] = []
    for path in readable:
        place = _real_place(path, root, shown)
        if place is not None and not _is_below(place, shown):
            _bind(place, root)
            shown.append(place)


def _real_place(path: str, root: str, shown: list[str]) -> str | None:
    """Return where a path leads, after making its links in the new root too; None if it leads nowhere."""
    parts, place = list(Path(path).parts[1:]), ""
    for _ in range(_MAX_STEPS):
        if not parts:
            return place if os.path.lexists(place) else None
        place = f"{place}/{parts.pop(0)}"
        if not os.path.islink(place):  # noqa: PTH114
            continue
        link = os.readlink(place)  # noqa: PTH115
        if not _is_below(place, shown):
            target = Path(root + place)
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.is_symlink():
                target.symlink_to(link)
        whole = os.path.normpath(Path(place).parent / link)
        parts, place = [*Path(whole).parts[1:], *parts], ""
    return None


def _is_below(place: str, shown: list[str]) -> bool:
    return any(place == other or place.startswith(f"{other}/") for other in shown)


def _bind(place: str, root: str) -> None:
    target = Path(root + place)
    if os.path.isdir(place):  # noqa: PTH112
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    kernel.mount(place, str(target), "", _MS_BIND | _MS_REC)


def _unshared(flag: int) -> bool:
    try:
        kernel.unshare(flag)
    except OSError:
        return False
    return True


def _map_user(uid: int, gid: int) -> bool:
    """Give this user the same id in the new user namespace as outside."""
    try:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    except OSError:
        return False
    return True


def _set_attributes(path: str, flags: int, *, add: int = 0, remove: int = 0) -> None:
    attributes = struct.pack("QQQQ", add, remove, 0, 0)
    kernel.syscall(kernel.MOUNT_SETATTR, _AT_FDCWD, path.encode(), flags, attributes, len(attributes))
