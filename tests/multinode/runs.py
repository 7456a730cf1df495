"""Runs of the real command line over questions of our own, on a cluster or in one process."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.multinode.cluster import Cluster
from tests.multinode.machines import kill_session
from tests.ray.actor_cases import timeless
from tests.ray.command_cases import COMMAND, environment, read_rows, run_command

PATIENCE_SECONDS = 300.0  # Ray takes a minute to give up a node that is silent, and the machine may be busy
# Every process computes with one thread, and so rounds alike.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "LATENTMAS_TORCH_THREADS": "1"}
FLAGS = ["--model", "tiny", "--temperature", "0", "--latent-steps", "6", "--max-new-tokens", "8", "--batch-size", "2"]


def make_cluster(*num_cpus: int | None, more: Mapping[str, str] | None = None, dashboard: bool = False) -> Cluster:
    """A cluster whose processes use this checkout, with `more` in their environment; with a `dashboard` it takes jobs,
    whose `python` is the tests' own."""
    path = {"PATH": f"{COMMAND.parent}:{environment()['PATH']}"}
    return Cluster(num_cpus, environment=environment({**ONE_THREAD, **path, **(more or {})}), dashboard=dashboard)


def write_questions(folder: Path, count: int) -> Path:
    """A task of `count` questions."""
    path = folder / "questions.jsonl"
    path.write_text("\n".join(json.dumps({"id": f"q{i}", "question": f"What is {i} + 9?"}) for i in range(count)))
    return path


def evaluation(task: Path, topology: str) -> list[str]:
    """The command without what says where it runs and where its results go."""
    return [str(COMMAND), "eval", "--task", str(task), "--topology", topology, *FLAGS]


def local_rows(command: Sequence[str], folder: Path) -> list[dict[str, Any]]:
    """The rows, without times, of the same run in one process: what every cluster must give."""
    done = run_command(*command[1:], "--runtime", "local", "--output", folder, more=ONE_THREAD)
    assert done.returncode == 0, done.stderr
    return [timeless(row) for row in read_rows(folder)]


@contextmanager
def started_on(
    cluster: Cluster, node: int, command: Sequence[str], environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A command on a node, ended with the body; `environment` instead of the cluster's."""
    process = cluster.start(node, command, environment=environment)
    try:
        yield process
    finally:
        kill_session(process)


def finish(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    """Wait for the end of a command, which must come."""
    out, err = process.communicate(timeout=PATIENCE_SECONDS)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def wait_while(condition: Callable[[], bool], look: Callable[[], object] = lambda: None) -> None:
    """Return when `condition` no longer holds, looking around meanwhile; fail after a long time."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while condition():
        assert time.monotonic() < deadline, "what was waited for did not happen"
        look()
        time.sleep(0.2)
