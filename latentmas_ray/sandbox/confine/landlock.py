"""Landlock: an unprivileged process restricts its own access to files, TCP and signals. Linux 5.13 and later.

Everything is denied except what `restrict` allows. `_handled` has the rights that each version of Landlock can deny.
"""

import os
import struct
from collections.abc import Iterable

from latentmas_ray.sandbox.confine import system_calls as kernel

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_ALL_OF_VERSION_1 = (1 << 13) - 1
_TCP_BIND_AND_CONNECT = 0b11
_ABSTRACT_SOCKETS_AND_SIGNALS = 0b11
_VERSION_FLAG = 1
_RULE_PATH_BENEATH = 1
SIGNALS_SINCE = 6  # the first version that can block signals to processes outside


def version() -> int:
    """Return the version of the kernel's Landlock; 0 if it has none or if it is turned off."""
    try:
        return kernel.syscall(kernel.LANDLOCK_CREATE_RULESET, None, 0, _VERSION_FLAG)
    except OSError:
        return 0


def restrict(*, readable: Iterable[str], writable: Iterable[str]) -> None:
    """Restrict this process and its children permanently: they can read and execute below `readable`, do anything below
    `writable`, and reach no other file, no TCP port and no outside process. Missing paths are ignored.

    Call `system_calls.forbid_new_privileges` first. Raises OSError.
    """
    abi = version()
    handled = _handled(abi)
    attributes = struct.pack("QQQ", handled, _TCP_BIND_AND_CONNECT, _ABSTRACT_SOCKETS_AND_SIGNALS)
    size = 8 if abi < 4 else 16 if abi < SIGNALS_SINCE else 24
    rules = kernel.syscall(kernel.LANDLOCK_CREATE_RULESET, attributes[:size], size, 0)
    try:
        for path in readable:
            _allow(rules, path, _EXECUTE | _READ_FILE | _READ_DIR)
        for path in writable:
            _allow(rules, path, handled)
        kernel.syscall(kernel.LANDLOCK_RESTRICT_SELF, rules, 0)
    finally:
        os.close(rules)


def _handled(abi: int) -> int:
    handled = _ALL_OF_VERSION_1
    for since, right in ((2, _REFER), (3, _TRUNCATE), (5, _IOCTL_DEV)):
        handled |= right if abi >= since else 0
    return handled


def _allow(rules: int, path: str, rights: int) -> None:
    try:
        file = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not os.path.isdir(path):  # noqa: PTH112
            rights &= _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
        beneath = struct.pack("=Qi", rights, file)
        kernel.syscall(kernel.LANDLOCK_ADD_RULE, rules, _RULE_PATH_BENEATH, beneath, 0)
    finally:
        os.close(file)
