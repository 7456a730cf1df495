"""The filter of system calls, run by a small interpreter of its own language: also for the other architecture."""

import errno
import struct

import pytest

from latentmas_ray.sandbox.confine import seccomp
from tests.unit.sandbox.attacks import NUMBERS

MACHINES = ("x86_64", "aarch64")
ALLOWED, KILLED = 0x7FFF0000, 0x80000000
# (read, write, openat, mmap, futex, exit_group, execve, wait4, getrandom, statx)
NEEDED = {
    "x86_64": (0, 1, 257, 9, 202, 231, 59, 61, 318, 332),
    "aarch64": (63, 64, 56, 222, 98, 94, 221, 260, 278, 291),
}


def decide(machine: str, number: int, *arguments: int, audit_name: int | None = None) -> int:
    """Return what the filter says to a system call."""
    calls = seccomp.table(machine)
    assert calls is not None
    name = calls.audit_name if audit_name is None else audit_name
    data = struct.pack("<IIQ6Q", number, name, 0, *[*arguments, 0, 0, 0, 0, 0, 0][:6])
    program = list(struct.iter_unpack("<HBBI", seccomp.program_for(calls)))
    at, value = 0, 0
    while True:
        code, if_true, if_false, operand = program[at]
        at += 1
        if code == 0x20:
            (value,) = struct.unpack_from("<I", data, operand)
        elif code == 0x54:
            value &= operand
        elif code == 0x06:
            return operand
        else:
            is_true = {0x15: value == operand, 0x35: value >= operand, 0x45: bool(value & operand)}[code]
            at += if_true if is_true else if_false


def refused(number: int) -> int:
    return 0x50000 | number


@pytest.mark.parametrize("machine", MACHINES)
def test_what_a_computation_needs_is_allowed_and_attacks_are_not(machine: str) -> None:
    assert all(decide(machine, number) == ALLOWED for number in NEEDED[machine])
    for name, number in NUMBERS[machine].items():
        if name not in ("clone", "prlimit64"):
            assert decide(machine, number) in (refused(errno.ENOSYS), refused(errno.EACCES)), name


@pytest.mark.parametrize("machine", MACHINES)
def test_calls_are_judged_by_their_arguments(machine: str) -> None:
    calls = seccomp.table(machine)
    assert calls is not None
    assert decide(machine, calls.clone, 0x3D0F00) == ALLOWED  # a thread
    assert decide(machine, calls.clone, 17) == ALLOWED  # a process
    for flag in (0x80, 0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert decide(machine, calls.clone, flag | 17) == refused(errno.EPERM)
    assert decide(machine, calls.socketpair, 1, 1 | 0x80000) == ALLOWED
    assert decide(machine, calls.socketpair, 1, 5) == ALLOWED
    for domain, kind in ((1, 2), (1, 3), (2, 1), (40, 1), (16, 3)):
        assert decide(machine, calls.socketpair, domain, kind) == refused(errno.EACCES)
    assert all(decide(machine, number, 1, 1) == refused(errno.EACCES) for number in calls.sockets)
    assert decide(machine, calls.prlimit, 0) == ALLOWED
    assert decide(machine, calls.prlimit, 1) == refused(errno.EPERM)
    assert decide(machine, calls.ioctl, 3, 0x5401) == ALLOWED
    assert decide(machine, calls.ioctl, 3, 0x5412) == refused(errno.ENOTTY)
    assert decide(machine, calls.fcntl, 3, 1030) == ALLOWED
    assert decide(machine, calls.fcntl, 3, 1031) == refused(errno.EPERM)
    assert decide(machine, calls.prctl, 15) == ALLOWED
    assert decide(machine, calls.prctl, 35) == refused(errno.EINVAL)


@pytest.mark.parametrize("machine", MACHINES)
def test_calls_of_another_architecture_and_unknown_ones_are_refused(machine: str) -> None:
    assert decide(machine, 0, audit_name=0x40000003) == KILLED  # i386
    assert decide(machine, 63, audit_name=0x40000028) == KILLED  # 32-bit ARM
    assert all(decide(machine, number) == refused(errno.ENOSYS) for number in range(453, 3000))
    if machine == "x86_64":
        assert decide(machine, 0x40000000) == KILLED  # x32


def test_an_architecture_that_is_not_known_has_no_filter() -> None:
    assert [seccomp.table(name) for name in ("i686", "riscv64", "ppc64le", "s390x", "armv7l")] == [None] * 5
