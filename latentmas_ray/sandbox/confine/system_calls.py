"""System calls for which Python has no function, through the C library. Each raises OSError."""

import ctypes
import os
import struct

# System calls added since 2019 have the same number on all 64-bit architectures.
MOUNT_SETATTR = 442
LANDLOCK_CREATE_RULESET = 444
LANDLOCK_ADD_RULE = 445
LANDLOCK_RESTRICT_SELF = 446

# Older ones have not: by `uname -m`.
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_KEYCTL = {"x86_64": 250, "aarch64": 219}
_NO_CALL = -1  # on an architecture that is not known: ENOSYS

CLONE_NEWNS = 0x00020000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

_PR_SET_PDEATHSIG = 1
_PR_SET_KEEPCAPS = 8
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_DUMPABLE = 4
_PR_SET_SECCOMP = 22
_PR_SET_NO_NEW_PRIVS = 38
_KEYCTL_JOIN_SESSION_KEYRING = 1
_MNT_DETACH = 2
_CAPABILITY_VERSION_3 = 0x20080522
_SIGKILL = 9

_LIBC = ctypes.CDLL(None, use_errno=True)


def syscall(number: int, *arguments: int | bytes | None) -> int:
    """Make a system call by number; integers are passed as 64 bits, bytes by address."""
    values = [
        ctypes.c_long(value) if isinstance(value, int) else ctypes.c_char_p(value) if value is not None else None
        for value in arguments
    ]
    return _checked(int(_LIBC.syscall(ctypes.c_long(number), *values)))


def unshare(flags: int) -> None:
    """Move this process into new namespaces."""
    _checked(_LIBC.unshare(flags))


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """Mount a file system, or change how one is mounted."""
    _checked(_LIBC.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode()))


def detach(target: str) -> None:
    """Unmount what is mounted at `target` as soon as nothing uses it."""
    _checked(_LIBC.umount2(target.encode(), _MNT_DETACH))


def pivot_root(new: str, old: str) -> None:
    """Make the mount `new` the root of this mount namespace; the root until now is then at `old`."""
    syscall(_PIVOT_ROOT.get(os.uname().machine, _NO_CALL), new.encode(), old.encode())


def leave_session_keyring() -> None:
    """Give this process a session keyring of its own, without the keys of the one that it inherited."""
    syscall(_KEYCTL.get(os.uname().machine, _NO_CALL), _KEYCTL_JOIN_SESSION_KEYRING, None)


def hide_memory() -> None:
    """Keep other processes of this user from reading this one's memory or open files. Changing the user resets this."""
    _prctl(_PR_SET_DUMPABLE, 0)


def set_seccomp(mode: int, program: bytes) -> None:
    """Install a filter of system calls: `program` is a `struct sock_fprog`."""
    _checked(_LIBC.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(mode), ctypes.c_char_p(program), 0, 0))


def die_with_parent() -> None:
    """Kill this process when the thread that created it ends. Changing the user id resets this."""
    _prctl(_PR_SET_PDEATHSIG, _SIGKILL)


def adopt_orphans() -> None:
    """Make descendants whose parent ends children of this process."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def forbid_new_privileges() -> None:
    """Prevent this process and its children from gaining privileges by starting programs."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def keep_capabilities() -> None:
    """Keep the permitted capabilities across the next change of the user id."""
    _prctl(_PR_SET_KEEPCAPS, 1)


def set_capabilities(mask: int) -> None:
    """Set exactly these capabilities (of the first 32). Started programs inherit none."""
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    _checked(_LIBC.capset(header, struct.pack("6I", mask, mask, 0, 0, 0, 0)))


def _prctl(option: int, value: int) -> None:
    _checked(_LIBC.prctl(option, ctypes.c_ulong(value), 0, 0, 0))


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
