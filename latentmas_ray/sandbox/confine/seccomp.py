"""Seccomp: an unprivileged process gives up system calls for good, itself and its children.

Only calls that a computation needs are allowed; a call that is not listed, such as one of a newer kernel, fails with
ENOSYS. So neither keys, other processes' memory, namespaces, mounts, sockets with a name, io_uring, BPF nor memory that
no limit counts (memfd, System V) can be reached. The filter is a classic BPF program over `struct seccomp_data`.
"""

import ctypes
import errno
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from latentmas_ray.sandbox.confine import system_calls as kernel

_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data; an argument has 8 bytes
_LOAD, _JUMP_EQUAL, _JUMP_ANY_BIT, _JUMP_AT_LEAST, _AND, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x54, 0x06
_KILL, _ALLOW, _REFUSE = 0x80000000, 0x7FFF0000, 0x00050000
_MODE_FILTER = 2

_NEW_NAMESPACES = 0x7E020080  # CLONE_NEWTIME, NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_AF_UNIX, _SOCK_STREAM, _SOCK_SEQPACKET, _SOCK_TYPE_MASK = 1, 1, 5, 0xF
# What Python's `os`, `subprocess` and `shutil` ask of a file: terminal or not, its size, bytes to read, close on exec.
_IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
_PRCTLS = (1, 2, 3, 4, 15, 16, 23, 38, 39, 0x53564D41)  # signal of the parent's death, core dumps, names
_FCNTLS_REFUSED = (1024, 1026, 1031)  # a lease, watching a folder, a larger pipe


@dataclass(frozen=True, kw_only=True)
class SystemCalls:
    """The numbers of an architecture: calls that are allowed as they are, and those that need a look."""

    audit_name: int
    plain: str  # ranges of numbers
    socketpair: int
    clone: int
    prctl: int
    prlimit: int
    ioctl: int
    fcntl: int
    sockets: tuple[int, ...]  # socket, connect, bind, listen, accept, accept4
    foreign_from: int = 0  # numbers from here on belong to another interface (x32); 0: there is none
    no_memory_file: int = 0  # memfd_create: refused, and a probe of whether the filter holds
    plain_numbers: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        numbers: list[int] = []
        for part in self.plain.split():
            first, _, last = part.partition("-")
            numbers.extend(range(int(first), int(last or first) + 1))
        object.__setattr__(self, "plain_numbers", tuple(numbers))


_TABLES = {
    "x86_64": SystemCalls(
        audit_name=0xC000003E,
        plain="0-15 17-26 28 32-40 44-48 51-52 54-55 57-63 73-91 95-100 102 104 107-112 115 118 120-121 124-125 "
        "127-128 130-132 137-138 140 143 145-147 158 160 186 191-196 200-204 213 217-219 221 228-235 "
        "247 257-258 261-271 273-274 280-287 289-293 295-296 309 316 318 324 326-328 332 334 439 452",
        socketpair=53,
        clone=56,
        prctl=157,
        prlimit=302,
        ioctl=16,
        fcntl=72,
        sockets=(41, 42, 49, 50, 43, 288),
        foreign_from=0x40000000,
        no_memory_file=319,
    ),
    "aarch64": SystemCalls(
        audit_name=0xC00000B7,
        plain="8-13 17 19-24 32 34-38 43-50 52-53 56-57 59 61-74 78-80 82-83 85-88 90 93-96 98-103 113-115 120-126 "
        "128-137 139 141 148 150 153-158 160 163-166 168-169 172-179 204-212 214-216 221-223 226-227 233 260 276 278 "
        "283 285-287 291 293 439 452",
        socketpair=199,
        clone=220,
        prctl=167,
        prlimit=261,
        ioctl=29,
        fcntl=25,
        sockets=(198, 200, 203, 201, 202, 242),
        no_memory_file=279,
    ),
}


def table(machine: str | None = None) -> SystemCalls | None:
    """Return the system calls of this machine's architecture (as in `uname -m`), None for one that is not known."""
    return _TABLES.get(os.uname().machine if machine is None else machine) if struct.calcsize("P") == 8 else None


def install() -> None:
    """Filter the system calls of this process (its only thread) and of its children, for good.

    Call `system_calls.forbid_new_privileges` first. Raises OSError, also for an architecture that is not known.
    """
    calls = table()
    if calls is None:
        raise OSError(errno.ENOSYS, f"no filter of system calls for {os.uname().machine}")
    program = program_for(calls)
    code = ctypes.create_string_buffer(program, len(program))
    kernel.set_seccomp(_MODE_FILTER, struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code)))
    try:
        kernel.syscall(calls.no_memory_file, b"", 0)
    except OSError as error:
        if error.errno == errno.ENOSYS:
            return
    raise OSError(errno.ENOSYS, "the filter of system calls has no effect")


def program_for(calls: SystemCalls) -> bytes:
    """Return the filter as an array of `struct sock_filter` (code, jump if true, jump if false, value)."""
    return b"".join(struct.pack("HBBI", *one) for one in _instructions(calls))


def _instructions(calls: SystemCalls) -> Iterator[tuple[int, int, int, int]]:
    yield _LOAD, 0, 0, _ARCHITECTURE
    yield _JUMP_EQUAL, 1, 0, calls.audit_name  # another one, such as 32-bit code on a 64-bit kernel
    yield _RETURN, 0, 0, _KILL
    yield _LOAD, 0, 0, _NUMBER
    if calls.foreign_from:
        yield _JUMP_AT_LEAST, 0, 1, calls.foreign_from
        yield _RETURN, 0, 0, _KILL
    for number in sorted(calls.plain_numbers, key=_by_use):
        yield from _on(number, [(_RETURN, 0, 0, _ALLOW)])
    for number in calls.sockets:
        yield from _on(number, [_refusal(errno.EACCES)])
    yield from _on(calls.clone, [*_argument(0), (_JUMP_ANY_BIT, 0, 1, _NEW_NAMESPACES), _refusal(errno.EPERM), _PASS])
    yield from _on(calls.socketpair, _socketpair())
    yield from _on(calls.prctl, _one_of(0, _PRCTLS, _PASS, _refusal(errno.EINVAL)))
    yield from _on(calls.prlimit, _one_of(0, (0,), _PASS, _refusal(errno.EPERM)))  # 0: this process
    yield from _on(calls.ioctl, _one_of(1, _IOCTLS, _PASS, _refusal(errno.ENOTTY)))
    yield from _on(calls.fcntl, _one_of(1, _FCNTLS_REFUSED, _refusal(errno.EPERM), _PASS))
    yield _refusal(errno.ENOSYS)


_PASS = (_RETURN, 0, 0, _ALLOW)


def _by_use(number: int) -> tuple[bool, int]:
    """Numbers are looked up one after the other; the low ones (read, write, …) are the usual ones."""
    return (number > 63, number)


def _on(number: int, then: list[tuple[int, int, int, int]]) -> Iterator[tuple[int, int, int, int]]:
    """What happens with a call of this number. `then` ends with a return."""
    yield _JUMP_EQUAL, 0, len(then), number
    yield from then


def _argument(index: int) -> list[tuple[int, int, int, int]]:
    """Load the low half of an argument: the kernel itself looks at no more of an int."""
    return [(_LOAD, 0, 0, _FIRST_ARGUMENT + 8 * index)]


def _socketpair() -> list[tuple[int, int, int, int]]:
    """Connected streams only: a datagram socket of a pair could still send to a socket with a name."""
    return [
        *_argument(0),
        (_JUMP_EQUAL, 1, 0, _AF_UNIX),
        _refusal(errno.EACCES),
        *_argument(1),
        (_AND, 0, 0, _SOCK_TYPE_MASK),
        (_JUMP_EQUAL, 1, 0, _SOCK_STREAM),
        (_JUMP_EQUAL, 0, 1, _SOCK_SEQPACKET),
        _PASS,
        _refusal(errno.EACCES),
    ]


def _one_of(
    index: int, values: Iterable[int], then: tuple[int, int, int, int], otherwise: tuple[int, int, int, int]
) -> list[tuple[int, int, int, int]]:
    """Whether an argument is one of these values."""
    found = [line for value in values for line in ((_JUMP_EQUAL, 0, 1, value), then)]
    return [*_argument(index), *found, otherwise]


def _refusal(number: int) -> tuple[int, int, int, int]:
    return _RETURN, 0, 0, _REFUSE | number
