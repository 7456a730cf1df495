"""System calls for which Python has no function, by way of the C library. Each raises OSError where it fails."""

import ctypes
import os
import struct

# The same numbers on all 64-bit architectures: calls from 2019 on are numbered alike.
MOUNT_SETATTR = 442
LANDLOCK_CREATE_RULESET = 444
LANDLOCK_ADD_RULE = 445
LANDLOCK_RESTRICT_SELF = 446

CLONE_NEWNS = 0x00020000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

_PR_SET_PDEATHSIG = 1
_PR_SET_KEEPCAPS = 8
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITY_VERSION_3 = 0x20080522
_SIGKILL = 9

_LIBC = ctypes.CDLL(None, use_errno=True)


def syscall(number: int, *arguments: int | bytes | None) -> int:
    """A system call by its number; integers are passed as 64 bits, bytes by address."""
    values = [
        ctypes.c_long(value) if isinstance(value, int) else ctypes.c_char_p(value) if value is not None else None
        for value in arguments
    ]
    return _checked(int(_LIBC.syscall(ctypes.c_long(number), *values)))


def unshare(flags: int) -> None:
    """Leave namespaces that are shared with others."""
    _checked(_LIBC.unshare(flags))


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """Mount a file system, or change how one is mounted."""
    _checked(_LIBC.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode()))


def die_with_parent() -> None:
    """This process is killed when the thread that made it ends. Forgotten when the user id changes."""
    _prctl(_PR_SET_PDEATHSIG, _SIGKILL)


def adopt_orphans() -> None:
    """Processes below this one whose parents end become its children."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def give_up_privileges_for_good() -> None:
    """No program that is started from now on has more rights than this one."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def keep_capabilities() -> None:
    """The next change of the user id leaves the capabilities permitted."""
    _prctl(_PR_SET_KEEPCAPS, 1)


def set_capabilities(mask: int) -> None:
    """Exactly these capabilities (of the first 32), none of which a started program inherits."""
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    _checked(_LIBC.capset(header, struct.pack("6I", mask, mask, 0, 0, 0, 0)))


def _prctl(option: int, value: int) -> None:
    _checked(_LIBC.prctl(option, ctypes.c_ulong(value), 0, 0, 0))


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
