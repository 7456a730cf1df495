"""The program's process: drops its privileges, then runs the program and its tests."""

import builtins
import os
import resource
import sys
import types
from collections.abc import Callable

from latentmas_ray.sandbox import landlock
from latentmas_ray.sandbox import system_calls as kernel
from latentmas_ray.sandbox.job import Job, Limits

READY = b"ready\n"  # the report before it is ours; the report after it may come from the program

_MODULE = "program"
_MAX_REASON_CHARS = 300
_CAP_DAC_READ_SEARCH = 1 << 2
_FIRST_FREE_UID = 1_900_000_000
_NOBODY = 65534
_REPORT = 3
_READABLE = (
    *("/usr", "/lib", "/lib64", "/bin", "/sys/devices/system/cpu", "/etc/ld.so.cache", "/etc/localtime"),
    *("/dev/zero", "/dev/random", "/dev/urandom"),
)


def run_inside(job: Job, folder: str, report: int, token: bytes, *, uid: int, num_others: int) -> None:
    """Confine this process and run the job. Writes `token` to the file descriptor `report` if it passes. Never returns.

    `uid` is the user to become (root only). `num_others` is how many other processes of the user count to its limit.
    """
    try:
        _close_all_but(report)
        _set_limits(job.limits, num_others)
        if os.geteuid() == 0:
            _become(uid)
        else:
            kernel.set_capabilities(0)  # in its user namespace
        kernel.die_with_parent()
        kernel.forbid_new_privileges()
        if landlock.version():
            readable = (*_READABLE, sys.prefix, sys.base_prefix, *filter(None, sys.path))
            landlock.restrict(readable=readable, writable=(folder, "/dev/null"))
        os.write(_REPORT, READY)
    except OSError as error:
        os.write(_REPORT, f"{type(error).__name__}: {error}".encode())
        os._exit(1)
    _run(job.program, job.tests, token, os.write, os._exit)


def free_uid() -> int:
    """Return a user id that is not in use."""
    return _FIRST_FREE_UID + os.getpid()


def _run(
    program: str,
    tests: str,
    token: bytes,
    write: Callable[[int, bytes], int],
    exit_process: Callable[[int], object],
) -> None:
    # Keep references to everything that is needed afterwards: the program may replace it in its module or in builtins.
    run, make, names, untouched = exec, compile, vars(builtins), dict(vars(builtins))
    module = types.ModuleType(_MODULE)
    sys.modules[_MODULE] = module
    space = module.__dict__
    try:
        run(make(program, "<program>", "exec"), space)
        names.update(untouched)
        run(make(tests, "<tests>", "exec"), space)
    except BaseException as error:  # noqa: BLE001 - includes SystemExit, KeyboardInterrupt and the program's own classes
        token = _reason(error)
    write(_REPORT, token + b"\n")
    exit_process(0)


def _reason(error: BaseException) -> bytes:
    try:
        text = f"{type(error).__name__}: {error}"
    except BaseException:  # noqa: BLE001 - the program's own exception may do anything
        text = "an exception that cannot be printed"
    return " ".join(text[:_MAX_REASON_CHARS].split()).encode(errors="replace")


def _close_all_but(report: int) -> None:
    """Redirect the standard streams to /dev/null, move `report` to a fixed number, and close all other files."""
    null = os.open("/dev/null", os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    if report != _REPORT:
        os.dup2(report, _REPORT)
    os.closerange(_REPORT + 1, os.sysconf("SC_OPEN_MAX"))


def _set_limits(limits: Limits, num_others: int) -> None:
    for kind, bound in (
        (resource.RLIMIT_CPU, limits.cpu_seconds),
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_NPROC, limits.num_processes + num_others),
        (resource.RLIMIT_FSIZE, limits.file_bytes),
        (resource.RLIMIT_NOFILE, limits.num_open_files),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        bound = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
        # CPU time: SIGXCPU, which tells the reason, and one second later SIGKILL.
        spare = 1 if kind == resource.RLIMIT_CPU and (hard == resource.RLIM_INFINITY or hard > bound) else 0
        resource.setrlimit(kind, (bound, bound + spare))


def _become(uid: int) -> None:
    """Change from root to a user who owns nothing. Limits on the number of processes do not apply to root."""
    kernel.keep_capabilities()
    os.setgroups([])
    try:
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    except OSError:  # a container with few user ids
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    kernel.set_capabilities(0 if _can_read_python() else _CAP_DAC_READ_SEARCH * bool(landlock.version()))


def _can_read_python() -> bool:
    """Whether this user can read Python's files. If only root can, Landlock alone restricts reading."""
    try:
        with open(os.__file__, "rb"):  # noqa: PTH123
            return True
    except OSError:
        return False
