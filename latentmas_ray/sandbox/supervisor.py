"""The supervisor process: sets up the sandbox, starts the two processes in it, and reports the verdict.

Reads one job from standard input and writes one verdict to standard output, both as JSON. The tests are in a file of
their own, which only the tests' process reads: no process before it, and none next to it, has ever had them in memory.
"""

import contextlib
import json
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

from latentmas_ray.sandbox.child import VANISHED, Enclosure, free_uids, run_program_process, run_tests_process
from latentmas_ray.sandbox.confine import landlock, seccomp
from latentmas_ray.sandbox.confine import system_calls as kernel
from latentmas_ray.sandbox.confine.isolation import INSIDE, Isolation, enter_root, isolate, readable_paths
from latentmas_ray.sandbox.confine.memory import Cgroup, used_bytes
from latentmas_ray.sandbox.job import MIB, Job, Limits

_MAX_REPORT_BYTES = 4096
_KILL_SECONDS = 5.0
_WATCH_SECONDS = 0.05
_LAST_SECONDS = 1.0  # for a process whose files are closed to end
_NUM_OWN = 4  # processes of this user in its user namespace besides the program: bubblewrap's, this, the keeper, tests'


def main() -> None:
    """Run the job on standard input in the folder that is the first argument; the second is the file of the tests. A
    third, `inside`, says that bubblewrap has made a root and namespaces already."""
    kernel.die_with_parent()
    kernel.adopt_orphans()
    signal.signal(signal.SIGTERM, _stop)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # out of memory: kill this and the program first
    given = json.load(sys.stdin)
    job = Job(**{**given, "tests": "", "limits": Limits(**given["limits"])})
    sys.path.extend(path for path in job.import_paths if path not in sys.path)
    verdict = _verdict(job, os.path.realpath(sys.argv[1]), int(sys.argv[2]), is_inside=sys.argv[3:] == ["inside"])
    json.dump(verdict, sys.stdout)
    sys.stdout.flush()
    os._exit(0)


def _stop(*_: object) -> None:
    """Exit on SIGTERM: the caller no longer waits for the verdict."""
    sys.exit(1)


def _verdict(job: Job, folder: str, tests: int, *, is_inside: bool) -> dict[str, Any]:
    num_others = _num_own_threads() if os.geteuid() else 0
    group = Cgroup.make(f"latentmas-sandbox-{os.getpid()}", job.limits.memory_bytes)
    isolation = INSIDE if is_inside else isolate()
    uids = free_uids()  # by this process's number, which is unique; the keeper's is 1 in its namespace
    ours, theirs = os.pipe()
    try:
        child = os.fork()
        if child == 0:
            others = _NUM_OWN if isolation.has_own_user else num_others
            _keep(job, folder, tests, theirs, isolation, group, uids, others)
        os.close(theirs)
        try:
            report, end = _await(ours, child, job.limits, group)
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # finish killing all processes
            ended_by = _kill_all(child)
        if group is not None and group.ran_out():
            end = "memory"
    finally:
        if group is not None:
            group.remove()
    return _read(report, job.limits, end, ended_by, {"counts_memory": group is not None})


def _read(report: bytes, limits: Limits, end: str, ended_by: int, known: dict[str, bool]) -> dict[str, Any]:
    """Return the verdict. The report has two lines: what confines the program, and the verdict of the tests."""
    lines = report.splitlines(keepends=True)
    if not lines:
        return {"failed": "its process ended before the program began"}
    first: dict[str, Any] = json.loads(lines[0])
    if "confinement" not in first:
        return first
    confinement = {**first["confinement"], **known}
    if end not in ("late", "memory") and len(lines) > 1 and lines[1].endswith(b"\n"):
        verdict: dict[str, Any] = json.loads(lines[1])
        if verdict.get("reason") != "" or verdict.get("passed"):
            return {**verdict, "confinement": confinement}
    return {"passed": False, "reason": _why_silent(limits, end, ended_by), "confinement": confinement}


def _why_silent(limits: Limits, end: str, ended_by: int) -> str:
    """Return why there is no verdict of the tests."""
    if end == "late":
        return f"it took longer than {limits.wall_seconds:g} s"
    if end == "memory":
        return f"it used more than {limits.memory_bytes // MIB} MiB of memory"
    if ended_by == signal.SIGXCPU:
        return f"it took more than {limits.cpu_seconds} s of processor time"
    return "it ended before its tests did" + (f" (signal {ended_by})" if ended_by else "")


def _obstacle(isolation: Isolation, *, has_own_root: bool) -> str:
    """Return what this machine lacks to confine an untrusted program; empty if nothing."""
    is_root, abi = os.geteuid() == 0, landlock.version()
    if seccomp.table() is None:
        return f"no filter of system calls is known for {os.uname().machine}"
    if not (has_own_root or abi):
        return "it could read this machine's files: neither namespaces nor Landlock are allowed here"
    if not (is_root or isolation.has_own_processes or abi >= landlock.SIGNALS_SINCE):
        return "it could end this user's processes: user namespaces are not allowed here"
    return ""


def _keep(
    job: Job,
    folder: str,
    tests: int,
    report: int,
    isolation: Isolation,
    group: Cgroup | None,
    uids: tuple[int, int],
    num_others: int,
) -> None:
    """The keeper: enters the job's root, starts its two processes, and waits for them. Never returns.

    It is the first process of the job's process namespace: when it ends, the kernel kills all others.
    """
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        kernel.die_with_parent()
        os.setsid()
        if group is not None:
            group.enter()
        with contextlib.suppress(OSError):  # a kernel without keys, or where even this call is refused
            kernel.leave_session_keyring()
        has_root = isolation is INSIDE or enter_root(
            folder, job.limits.folder_bytes, (*readable_paths(), *job.import_paths)
        )
        if job.needs_confinement and (obstacle := _obstacle(isolation, has_own_root=has_root)):
            os.write(report, json.dumps({"obstacle": obstacle}).encode() + b"\n")
            os._exit(0)
        is_filtered = seccomp.table() is not None
        if not has_root and os.geteuid() == 0:
            uids = (uids[0], uids[0])
            os.chown(folder, *uids)
        os.chdir(folder)
        os.write(report, json.dumps({"confinement": _found(isolation, has_root, is_filtered)}).encode() + b"\n")
        os._exit(
            _run_both(
                job,
                tests,
                report,
                [
                    Enclosure(folder=folder, uid=uid, num_others=others, has_own_root=has_root, is_filtered=is_filtered)
                    for uid, others in zip(uids, (num_others, num_others + job.limits.num_processes), strict=True)
                ],
            )
        )
    except OSError as error:
        os.write(report, json.dumps({"failed": f"{type(error).__name__}: {error}"}).encode() + b"\n")
    finally:
        os._exit(0)


def _found(isolation: Isolation, has_root: bool, is_filtered: bool) -> dict[str, Any]:
    return {
        "has_own_root": has_root,
        "landlock": landlock.version(),
        "has_filter": is_filtered,
        "has_no_network": isolation.has_no_network,
        "has_own_processes": isolation.has_own_processes,
    }


def _run_both(job: Job, tests: int, report: int, enclosures: list[Enclosure]) -> int:
    """Start the program's and the tests' process and wait for the latter. Return the signal that ended one of them."""
    (asked, asking), (answered, answering) = os.pipe(), os.pipe()
    program = 0
    if job.program is not None and (program := os.fork()) == 0:
        run_program_process(job, enclosures[0], asked, answering)
    tester = os.fork()
    if tester == 0:
        run_tests_process(job, enclosures[1], tests, report, answered, asking)
    for file in (asked, asking, answered, answering, report, tests):
        os.close(file)
    ended: dict[int, int] = {}
    while tester not in ended:
        pid, status = os.wait()
        ended[pid] = status
    if os.WIFSIGNALED(ended[tester]):
        return os.WTERMSIG(ended[tester])
    deadline = time.monotonic() + (_LAST_SECONDS if os.WEXITSTATUS(ended[tester]) == VANISHED else 0.0)
    while program and program not in ended and time.monotonic() < deadline:
        pid, status = os.waitpid(program, os.WNOHANG)
        if pid:
            ended[pid] = status
        time.sleep(0.001)
    status = ended.get(program, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def _await(pipe: int, child: int, limits: Limits, group: Cgroup | None) -> tuple[bytes, str]:
    """Read the report until `child` ends, until the time is up, or until its processes hold too much memory.
    Return the report and what ended the wait: "", "late" or "memory"."""
    watch = os.pidfd_open(child)
    files = [pipe, watch]
    deadline = time.monotonic() + limits.wall_seconds
    bound = limits.memory_bytes - limits.folder_bytes  # files in memory belong to no process
    report = b""
    while len(report) < _MAX_REPORT_BYTES:
        left = max(0.0, deadline - time.monotonic())
        ready, _, _ = select.select(files, [], [], min(left, _WATCH_SECONDS))
        if not ready:
            if time.monotonic() >= deadline:
                return report, "late"
            if group.ran_out() if group is not None else used_bytes(_descendants(child), bound) > bound:
                return report, "memory"
            continue
        if pipe in ready:
            chunk = os.read(pipe, _MAX_REPORT_BYTES)
            report += chunk
            if not chunk:  # all ends are closed: the child is ending
                files.remove(pipe)
        elif watch in ready:
            break
    return report, ""


def _kill_all(child: int) -> int:
    """Kill all processes of the job; orphans have become children of this process.

    Return the signal that ended the program, or 0. The keeper passes it on as its exit code.
    """
    ended_by = 0
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    deadline = time.monotonic() + _KILL_SECONDS
    while time.monotonic() < deadline:
        for pid in _children(os.getpid()):
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


def _descendants(pid: int) -> list[int]:
    found = [pid]
    for one in found:
        found += _children(one)
    return found


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                found += [int(name) for name in (thread / "children").read_text().split()]
    return found


def _num_own_threads() -> int:
    """Return the number of this user's threads on the machine: without a user namespace all of them count."""
    uid, total = os.getuid(), 0
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                if folder.stat().st_uid == uid:
                    total += sum(1 for _ in (folder / "task").iterdir())
    return total
