"""The real command in processes of its own, and their end: nothing that a test starts outlives it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
COMMAND = Path(sys.executable).with_name("latentmas")
TIMEOUT_SECONDS = 300.0
# One that the embedded model was trained for: of others the commands say so.
QUESTION = "Nadia has 5 beads. Then Nadia finds 3 more. How many beads has Nadia now?"

PAIR = """\
name: pair
agents:
  - {name: planner, prompt: "plan {{ question }}"}
  - {name: judger, reads: [planner], thinks: text, prompt: "judge {{ question }}"}
"""


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """The tests' own environment, with this checkout as the package that every process imports."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100", **(more or {})}


@contextmanager
def started(args: Sequence[str | Path], more: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """A process in a session of its own. At the end all processes of the session are killed, should any be left."""
    process = subprocess.Popen(
        [str(arg) for arg in args],
        env=environment(more),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        for pid in (process.pid, *processes_of(process.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.communicate()


def run_command(*args: str | Path, more: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """`latentmas ARGS` to its end."""
    with started([COMMAND, *args], more) as process:
        out, err = process.communicate(timeout=TIMEOUT_SECONDS)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def processes_of(session: int) -> dict[int, str]:
    """The living processes of a session and what they call themselves, by the kernel's own account."""
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            # After the command's name in brackets: state, parent, process group, session.
            state, _, _, owner = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(owner) == session and state != "Z":
                found[int(folder.name)] = (folder / "cmdline").read_text()
    return found


def lines_unlike(starts: Sequence[str], lines: Sequence[str]) -> list[str]:
    """The lines with none of these starts; what a command says while a busy machine starts its actors is left out."""
    return [line for line in lines if not line.startswith((*starts, "waiting for "))]


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    """Return when `condition` holds; fail after a long time, or when `process` has ended before."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        if process is not None and process.poll() is not None:
            out, err = process.communicate()
            raise AssertionError(f"the process has ended with {process.returncode}:\n{out}\n{err}")
        time.sleep(0.02)


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The whole rows of a run's results so far."""
    path = folder / "results.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]
