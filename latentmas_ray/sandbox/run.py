"""The caller's side of the sandbox: starts the supervisor of a job, waits for its verdict, and cleans up."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from functools import cache
from pathlib import Path
from threading import Event
from typing import Any

from latentmas_ray.errors import SandboxError
from latentmas_ray.sandbox.confine import bubblewrap
from latentmas_ray.sandbox.confine.isolation import readable_paths
from latentmas_ray.sandbox.job import Confinement, Job, Limits, Outcome

_ROOT = Path(__file__).parents[2]
_START = (
    "import sys; sys.path.insert(0, {root!r}); "
    "from latentmas_ray.sandbox.supervisor import main; del sys.path[0]; main()"
)
_GRACE_SECONDS = 20.0  # for Python to start and for the supervisor to clean up
_STOP_SECONDS = 10.0  # for the supervisor to end the program's processes
_POLL_SECONDS = 0.2
_MAX_VERDICT_CHARS = 1000


def run_program(job: Job, *, cancelled: Event | None = None) -> Outcome:
    """Run a job and return its outcome. Thread-safe.

    Setting `cancelled` ends it early, as not passed. No process and no file of it is left afterwards. Raises
    SandboxError if this machine cannot confine it or cannot run it.
    """
    return _outcome(_with_folder(job, cancelled or Event(), _try_out()[1]))


def find_obstacle() -> str | None:
    """Return why this machine cannot run untrusted programs, or None if it can. Cached."""
    found = _try_out()[0]
    return found if isinstance(found, str) else None


def find_confinement() -> Confinement | None:
    """Return what confines a program on this machine; None if it cannot run untrusted programs. Cached."""
    found = _try_out()[0]
    return None if isinstance(found, str) else found


@cache
def _try_out() -> tuple[Confinement | str, str | None]:
    """Return what confines a program here, or why nothing does; and the path of bubblewrap if it is needed for that."""
    found = _run_empty(None)
    if (isinstance(found, Confinement) and found.has_own_root) or (path := bubblewrap.find()) is None:
        return found, None
    inside = _run_empty(path)
    return (inside, path) if isinstance(inside, Confinement) else (found, None)


def _run_empty(path: str | None) -> Confinement | str:
    """Run an empty program, in bubblewrap at `path`. Return what confined it, or why that is not possible here."""
    try:
        verdict = _with_folder(Job(program="", tests="", limits=Limits(wall_seconds=30.0)), Event(), path)
        outcome = _outcome(verdict)
    except SandboxError as error:
        return str(error)
    if not outcome.passed:
        return f"an empty program does not end: {outcome.reason}"
    return Confinement(**verdict["confinement"])


def _with_folder(job: Job, cancelled: Event, path: str | None) -> dict[str, Any]:
    """Return the verdict of the supervisor, which bubblewrap at `path` starts if it is given."""
    if sys.platform != "linux":
        raise SandboxError("programs can only be confined on Linux")
    try:
        folder = Path(tempfile.mkdtemp(prefix="latentmas-sandbox-"))
        try:
            return _run_in(folder, job, cancelled, path)
        finally:
            _remove(folder)
    except OSError as error:  # such as a full disk, or too many processes
        raise SandboxError(f"the sandbox did not start: {error.strerror or error}") from error


def _run_in(folder: Path, job: Job, cancelled: Event, path: str | None) -> dict[str, Any]:
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as tests:
        fields = asdict(job)
        tests.write(fields.pop("tests").encode("utf-8", errors="surrogatepass"))
        tests.flush()
        given.write(json.dumps(fields).encode())
        given.seek(0)
        # -I: ignore Python's environment variables and the modules in this folder.
        command = [sys.executable, "-I", "-c", _START.format(root=str(_ROOT))]
        supervisor = subprocess.Popen(
            [*_prefix(folder, job, path), *command, str(folder), str(tests.fileno()), *(["inside"] if path else [])],
            stdin=given,
            pass_fds=(tests.fileno(),),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            env=_environment(folder),
            start_new_session=True,
        )
    deadline = time.monotonic() + job.limits.wall_seconds + _GRACE_SECONDS
    with supervisor:
        while True:
            try:
                return _verdict(*supervisor.communicate(timeout=_POLL_SECONDS))
            except subprocess.TimeoutExpired:
                if not cancelled.is_set() and time.monotonic() <= deadline:
                    continue
                _stop(supervisor)
                reason = "it was cancelled" if cancelled.is_set() else "it could not be ended in time"
                return {"passed": False, "reason": reason}


def _prefix(folder: Path, job: Job, path: str | None) -> list[str]:
    readable = (*readable_paths(), *job.import_paths, str(_ROOT / __package__.partition(".")[0]))
    own = os.path.realpath(folder)
    return [] if path is None else bubblewrap.prefix(path, own, job.limits.folder_bytes, readable)


def _stop(supervisor: "subprocess.Popen[bytes]") -> None:
    """Let the supervisor end the program and all its processes. If it fails to, kill the supervisor: the program's
    process dies with its parent."""
    supervisor.terminate()
    try:
        supervisor.communicate(timeout=_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(supervisor.pid, signal.SIGKILL)
        supervisor.communicate()


def _environment(folder: Path) -> dict[str, str]:
    """Return the program's environment. Numerical libraries must not start threads, which count as processes."""
    own = str(folder)
    return {
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": own,
        "TMPDIR": own,
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }


def _verdict(answer: bytes, complaint: bytes) -> dict[str, Any]:
    """Return what the supervisor wrote. Raises SandboxError if it wrote nothing."""
    try:
        verdict: dict[str, Any] = json.loads(answer)
    except ValueError:
        last = complaint.decode(errors="replace").strip().splitlines()[-1:]
        raise SandboxError(f"the sandbox did not start: {' '.join(last)[:_MAX_VERDICT_CHARS]}") from None
    return verdict


def _outcome(verdict: dict[str, Any]) -> Outcome:
    if "passed" in verdict:
        return Outcome(passed=bool(verdict["passed"]), reason=str(verdict.get("reason", "")))
    raise SandboxError(str(verdict.get("obstacle") or f"the sandbox did not start: {verdict.get('failed')}"))


def _remove(folder: Path) -> None:
    """Remove the folder, even if the program removed permissions from its own folders."""
    for place, names, _ in os.walk(folder):
        for name in names:
            path = Path(place, name)
            if not path.is_symlink():
                path.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)
