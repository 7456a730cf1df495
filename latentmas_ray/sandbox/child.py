"""The two processes inside the sandbox: the program's and the tests'. Each gives up its privileges first."""

import contextlib
import fcntl
import json
import os
import resource
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from latentmas_ray.sandbox.confine import landlock, seccomp
from latentmas_ray.sandbox.confine import system_calls as kernel
from latentmas_ray.sandbox.confine.isolation import readable_paths
from latentmas_ray.sandbox.exchange.answer import serve
from latentmas_ray.sandbox.exchange.channel import ChannelClosedError, MessageChannel
from latentmas_ray.sandbox.exchange.tests import run_tests
from latentmas_ray.sandbox.exchange.wire import ExchangeError
from latentmas_ray.sandbox.job import Job, Limits

VANISHED = 3  # the exit code of the tests' process if the program's has ended

_FIRST_FILE = 3
_SPARE_FILES = 64  # unused numbers while files get theirs
_CAP_DAC_READ_SEARCH = 1 << 2
_FIRST_FREE_UID = 1_900_000_000
_NOBODY = 65534


@dataclass(frozen=True, kw_only=True)
class Enclosure:
    """Where a process of the job runs, and as whom."""

    folder: str
    uid: int  # the user to become (root only)
    num_others: int  # other processes of the user, which count to its limit
    has_own_root: bool
    is_filtered: bool  # of system calls; False only where the job needs no confinement and the machine has no filter


def run_program_process(job: Job, enclosure: Enclosure, reading: int, writing: int) -> None:
    """Confine this process, run the program, and answer what the tests ask. Never returns."""
    channel = MessageChannel(*_keep_files(reading, writing))
    try:
        _confine(job, enclosure)
    except OSError as error:
        channel.send(["broken", f"{type(error).__name__}: {error}"])
        os._exit(1)
    with contextlib.suppress(ChannelClosedError):
        channel.send(["ready"])
        serve(job.program or "", list(job.shared), channel)
    os._exit(0)


def run_tests_process(job: Job, enclosure: Enclosure, tests: int, report: int, reading: int, writing: int) -> None:
    """Confine this process, run the tests from the file `tests`, and write the verdict to `report`. Never returns."""
    tests, report, reading, writing = _keep_files(tests, report, reading, writing)
    code = 0
    try:
        os.lseek(tests, 0, os.SEEK_SET)
        with os.fdopen(tests, "rb") as file:
            text = file.read().decode("utf-8", errors="surrogatepass")
        kernel.hide_memory()
        _confine(job, enclosure)
        kernel.hide_memory()  # again: changing the user has reset it
        verdict = _verdict(job, text, MessageChannel(reading, writing))
        code = VANISHED if verdict.pop("vanished", False) else 0
    except OSError as error:
        verdict = {"failed": f"{type(error).__name__}: {error}"}
    os.write(report, json.dumps(verdict).encode() + b"\n")
    os._exit(code)


def free_uids() -> tuple[int, int]:
    """Return two user ids that are not in use."""
    first = _FIRST_FREE_UID + 2 * os.getpid()
    return first, first + 1


def _verdict(job: Job, tests: str, channel: MessageChannel) -> dict[str, object]:
    """Wait for the program to be loaded, and run the tests."""
    if job.program is not None:
        try:
            hello = channel.receive()
        except (ChannelClosedError, ExchangeError):
            return {"failed": "its process ended before the program began"}
        if hello != ["ready"]:
            return {"failed": str(hello[-1])}
        try:
            loaded = channel.receive()
        except ChannelClosedError:
            return {"passed": False, "reason": "", "vanished": True}
        except ExchangeError as error:
            return {"passed": False, "reason": f"the program's answer is not understood: {error}"}
        if loaded != ["loaded"]:
            reason = loaded[1] if isinstance(loaded, list) and len(loaded) == 2 else "its answer is not understood"
            return {"passed": False, "reason": str(reason)}
    reason, has_vanished = run_tests(tests, channel, given=job.given, shared=job.shared, tested=job.tested)
    return {"passed": reason is None, "reason": "" if has_vanished else reason or "", "vanished": has_vanished}


def _confine(job: Job, enclosure: Enclosure) -> None:
    """Give up everything that a computation does not need. Raises OSError."""
    _set_limits(job.limits, enclosure.num_others)
    readable = (*readable_paths(), *job.import_paths)
    if os.geteuid() == 0:
        _become(enclosure)
    else:
        kernel.set_capabilities(0)  # in its user namespace
    kernel.die_with_parent()
    kernel.forbid_new_privileges()
    if landlock.version():
        landlock.restrict(readable=readable, writable=(enclosure.folder, "/dev/null"))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    if enclosure.is_filtered:
        try:
            seccomp.install()
        except OSError:
            if job.needs_confinement:
                raise


def _keep_files(*files: int) -> Sequence[int]:
    """Redirect the standard streams to /dev/null, move `files` to the next numbers, and close all others."""
    null = os.open("/dev/null", os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    spare = [fcntl.fcntl(file, fcntl.F_DUPFD, _SPARE_FILES) for file in files]
    kept = [os.dup2(file, _FIRST_FILE + index, inheritable=False) for index, file in enumerate(spare)]
    os.closerange(_FIRST_FILE + len(files), os.sysconf("SC_OPEN_MAX"))
    return kept


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


def _become(enclosure: Enclosure) -> None:
    """Change from root to a user who owns nothing. Limits on the number of processes do not apply to root."""
    kernel.keep_capabilities()
    os.setgroups([])
    try:
        os.setresgid(enclosure.uid, enclosure.uid, enclosure.uid)
        os.setresuid(enclosure.uid, enclosure.uid, enclosure.uid)
    except OSError:  # a container with few user ids
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    is_bounded = enclosure.has_own_root or landlock.version() > 0
    kernel.set_capabilities(0 if _can_read_python() else _CAP_DAC_READ_SEARCH * is_bounded)


def _can_read_python() -> bool:
    """Whether this user can read Python's files. If only root can, its own root and Landlock restrict it."""
    try:
        with open(os.__file__, "rb"), open(sys.executable, "rb"):  # noqa: PTH123
            return True
    except OSError:
        return False
