"""Namespaces: isolate a process from the network, from other processes, and from all but one writable folder."""

import contextlib
import os
import struct
from dataclasses import dataclass
from pathlib import Path

from latentmas_ray.sandbox import system_calls as kernel

_MS_NOSUID, _MS_NODEV, _MS_REC, _MS_PRIVATE = 0x2, 0x4, 0x4000, 0x40000
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_MOUNT_ATTR_RDONLY = 0x1
_NUM_FILES = 4096


@dataclass(frozen=True, kw_only=True)
class Isolation:
    """The isolation that this machine allowed."""

    has_own_user: bool  # a user namespace: its processes are counted separately
    has_no_network: bool
    has_own_processes: bool  # a process namespace, in which the next child is the first process
    is_read_only: bool  # everything except the folder


def isolate(folder: str, folder_bytes: int) -> Isolation:
    """Enter new namespaces where the machine allows it. `folder` becomes an empty in-memory file system, all others
    become read-only.

    A process that is not root first creates a user namespace.
    """
    uid, gid = os.geteuid(), os.getegid()  # read first: a new user namespace does not map them yet
    has_own_user = uid != 0 and _unshared(kernel.CLONE_NEWUSER) and _map_user(uid, gid)
    has_no_network = _unshared(kernel.CLONE_NEWNET)
    _unshared(kernel.CLONE_NEWIPC)
    is_read_only = _unshared(kernel.CLONE_NEWNS) and _only_writable(folder, folder_bytes)
    has_own_processes = _unshared(kernel.CLONE_NEWPID)  # last: this process itself stays outside
    return Isolation(
        has_own_user=has_own_user,
        has_no_network=has_no_network,
        has_own_processes=has_own_processes,
        is_read_only=is_read_only,
    )


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


def _only_writable(folder: str, num_bytes: int) -> bool:
    try:
        kernel.mount("none", "/", "", _MS_REC | _MS_PRIVATE)
        options = f"size={num_bytes},nr_inodes={_NUM_FILES},mode=0777"
        kernel.mount("tmpfs", folder, "tmpfs", _MS_NOSUID | _MS_NODEV, options)
        _set_attributes("/", _AT_RECURSIVE, add=_MOUNT_ATTR_RDONLY)
        _set_attributes(folder, 0, remove=_MOUNT_ATTR_RDONLY)
    except OSError:
        return False
    finally:
        with contextlib.suppress(OSError):
            os.chdir(folder)  # into the new file system, not the folder that it hides
    return True


def _set_attributes(path: str, flags: int, *, add: int = 0, remove: int = 0) -> None:
    attributes = struct.pack("QQQQ", add, remove, 0, 0)
    kernel.syscall(kernel.MOUNT_SETATTR, _AT_FDCWD, path.encode(), flags, attributes, len(attributes))
