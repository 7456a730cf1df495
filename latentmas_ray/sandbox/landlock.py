"""Landlock: a process without any privilege denies itself files, TCP and signals. Linux 5.13 and later.

What is not allowed here is denied; what each version of the kernel's interface can deny is in `_handled`.
"""

import os
import struct
from collections.abc import Iterable

from latentmas_ray.sandbox import system_calls as kernel

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_ALL_OF_VERSION_1 = (1 << 13) - 1
_TCP_BIND_AND_CONNECT = 0b11
_ABSTRACT_SOCKETS_AND_SIGNALS = 0b11
_VERSION_FLAG = 1
_RULE_PATH_BENEATH = 1
SIGNALS_SINCE = 6  # the version from which on processes outside can be protected from signals


def version() -> int:
    """Of the kernel's Landlock; 0 where it has none or where it is turned off."""
    try:
        return kernel.syscall(kernel.LANDLOCK_CREATE_RULESET, None, 0, _VERSION_FLAG)
    except OSError:
        return 0


def restrict(*, readable: Iterable[str], writable: Iterable[str]) -> None:
    """From now on this process and its children read and execute what is below `readable`, do anything below
    `writable`, and reach no other file, no TCP port and no process outside. Paths that are not there are left out.

    Needs `kernel.give_up_privileges_for_good` before. Raises OSError where it fails.
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
