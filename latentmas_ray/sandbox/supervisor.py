"""The supervisor process: sets up the sandbox, starts the program in it, and reports the verdict.

Reads one job from standard input and writes one verdict to standard output, both as JSON. The program's process gets a
random token and reports it when the tests have ended, so a program that exits early in any way does not pass.
"""

import contextlib
import json
import os
import secrets
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

from latentmas_ray.sandbox import landlock
from latentmas_ray.sandbox import system_calls as kernel
from latentmas_ray.sandbox.child import READY, free_uid, run_inside
from latentmas_ray.sandbox.job import Job, Limits
from latentmas_ray.sandbox.namespaces import Isolation, isolate

_MAX_REPORT_BYTES = 4096
_KILL_SECONDS = 5.0
_OWN_PROCESSES = 3  # of this user in its user namespace: this one, the first one inside, and the program's


def main() -> None:
    """Run the job on standard input in the folder that is the first argument."""
    kernel.die_with_parent()
    kernel.adopt_orphans()
    signal.signal(signal.SIGTERM, _stop)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # out of memory: kill this and the program first
    given = json.load(sys.stdin)
    job = Job(**{**given, "limits": Limits(**given["limits"])})
    sys.path.extend(path for path in job.import_paths if path not in sys.path)
    json.dump(_verdict(job, os.path.realpath(sys.argv[1])), sys.stdout)
    sys.stdout.flush()
    os._exit(0)


def _stop(*_: object) -> None:
    """Exit on SIGTERM: the caller no longer waits for the verdict."""
    sys.exit(1)


def _verdict(job: Job, folder: str) -> dict[str, Any]:
    num_others = _num_own_threads() if os.geteuid() else 0
    isolation = isolate(folder, job.limits.folder_bytes)
    if not job.is_trusted and (obstacle := _obstacle(isolation)):
        return {"obstacle": obstacle}
    uid = free_uid()
    if os.geteuid() == 0 and not isolation.is_read_only:
        os.chown(folder, uid, uid)
    token = secrets.token_hex(16).encode()
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        others = _OWN_PROCESSES - 1 if isolation.has_own_user else num_others
        _start(job, folder, theirs, token, isolation, uid=uid, num_others=others)
    os.close(theirs)
    try:
        report, is_late = _await(ours, child, job.limits.wall_seconds)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # finish killing all processes
        ended_by = _kill_all(child)
    if not report.startswith(READY):
        return {"failed": report.decode(errors="replace") or "its process ended before the program began"}
    line, line_end, _ = report.removeprefix(READY).partition(b"\n")
    if line == token and line_end:
        return {"passed": True}
    reason = line.decode(errors="replace") if line_end else _why_silent(job.limits, is_late, ended_by)
    return {"passed": False, "reason": reason}


def _why_silent(limits: Limits, is_late: bool, ended_by: int) -> str:
    """Return why a program reported nothing."""
    if is_late:
        return f"it took longer than {limits.wall_seconds:g} s"
    if ended_by == signal.SIGXCPU:
        return f"it took more than {limits.cpu_seconds} s of processor time"
    return "it ended before its tests did" + (f" (signal {ended_by})" if ended_by else "")


def _obstacle(isolation: Isolation) -> str:
    """Return what this machine lacks to confine an untrusted program; empty if nothing."""
    is_root, abi = os.geteuid() == 0, landlock.version()
    if not (is_root or abi or isolation.is_read_only):
        return "it could write this user's files: neither Landlock nor user namespaces are allowed here"
    if not (is_root or isolation.has_own_processes or abi >= landlock.SIGNALS_SINCE):
        return "it could end this user's processes: user namespaces are not allowed here"
    return ""


def _start(
    job: Job, folder: str, report: int, token: bytes, isolation: Isolation, *, uid: int, num_others: int
) -> None:
    """Run the job; called in the forked child. Never returns.

    If this is the first process of a namespace, the job runs in a child of it: the first process ignores most signals,
    and when it ends the kernel kills all others.
    """
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        kernel.die_with_parent()
        os.setsid()
        program = os.fork() if isolation.has_own_processes else 0
        if program == 0:
            os.chdir(folder)
            run_inside(job, folder, report, token, uid=uid, num_others=num_others)
        os.close(report)
        pid, status = os.wait()
        while pid != program:
            pid, status = os.wait()
        os._exit(os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0)
    finally:
        os._exit(0)


def _await(pipe: int, child: int, seconds: float) -> tuple[bytes, bool]:
    """Read the report until the line after `READY`, until `child` ends, or until the time is up. Return the report and
    whether the time was up."""
    watch = os.pidfd_open(child)
    deadline = time.monotonic() + seconds
    report = b""
    while len(report) < _MAX_REPORT_BYTES and report.count(b"\n") < 2:
        ready, _, _ = select.select([pipe, watch], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return report, True
        if pipe in ready:
            chunk = os.read(pipe, _MAX_REPORT_BYTES)
            if chunk:
                report += chunk
                continue
            select.select([watch], [], [], max(0.0, deadline - time.monotonic()))
        if watch in ready or not chunk:
            break
    return report, False


def _kill_all(child: int) -> int:
    """Kill all processes of the program; orphans have become children of this process.

    Return the signal that ended the program, or 0. The first process of a namespace passes it on as its exit code.
    """
    ended_by = 0
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    deadline = time.monotonic() + _KILL_SECONDS
    while time.monotonic() < deadline:
        for pid in _children():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        try:
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == child:
                    ended_by = os.WTERMSIG(ended[1]) if os.WIFSIGNALED(ended[1]) else os.WEXITSTATUS(ended[1])
            time.sleep(0.001)
        except ChildProcessError:
            break
    return ended_by


def _children() -> list[int]:
    pid = os.getpid()
    try:
        return [int(name) for name in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _num_own_threads() -> int:
    """Return the number of this user's threads on the machine: without a user namespace all of them count."""
    uid, total = os.getuid(), 0
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                if folder.stat().st_uid == uid:
                    total += sum(1 for _ in (folder / "task").iterdir())
    return total
