"""Runs of the real command line over questions of our own, on a cluster or in one process."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from latentmas_ray.cli.main import main
from tests.multinode.cluster import Cluster
from tests.ray.actor_cases import timeless
from tests.ray.command_cases import COMMAND, environment, read_rows

PATIENCE_SECONDS = 300.0  # Ray takes a minute to give up a node that is silent, and the machine may be busy
# Every process computes with one thread, and so rounds alike.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "LATENTMAS_TORCH_THREADS": "1"}
# In bfloat16 rounding depends on which questions are written at the same time.
MODEL = ["--model", "tiny", "--dtype", "float32"]
FLAGS = [*MODEL, "--temperature", "0", "--latent-steps", "6", "--max-new-tokens", "8", "--batch-size", "2"]


def make_cluster(
    *num_cpus: int | None, more: Mapping[str, str] | None = None, dashboard: bool = False, redis: bool = False
) -> Cluster:
    """A cluster whose processes use this checkout, with `more` in their environment; with a `dashboard` it takes jobs,
    whose `python` is the tests' own; `redis` as in `Cluster`."""
    path = {"PATH": f"{COMMAND.parent}:{environment()['PATH']}"}
    variables = environment({**ONE_THREAD, **path, **(more or {})})
    return Cluster(num_cpus, environment=variables, dashboard=dashboard, redis=redis)


def write_questions(folder: Path, count: int) -> Path:
    """A task of `count` questions."""
    path = folder / "questions.jsonl"
    path.write_text("\n".join(json.dumps({"id": f"q{i}", "question": f"What is {i} + 9?"}) for i in range(count)))
    return path


def evaluation(task: Path, topology: str) -> list[str]:
    """The command without what says where it runs and where its results go."""
    return [str(COMMAND), "eval", "--task", str(task), "--topology", topology, *FLAGS]


def local_rows(command: Sequence[str], folder: Path) -> list[dict[str, Any]]:
    """The rows, without times, of the same run in this process: what every cluster must give."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert main([*command[1:], "--runtime", "local", "--output", str(folder)]) == 0
    finally:
        torch.set_num_threads(num_threads)
    return [timeless(row) for row in read_rows(folder)]


class Command:
    """A command on a node. What it prints is read all the time: it would stop where its pipe is full."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._reader = ThreadPoolExecutor(1)
        self._printed = self._reader.submit(process.communicate)

    @property
    def is_over(self) -> bool:
        return self._process.poll() is not None

    def finish(self) -> subprocess.CompletedProcess[str]:
        """Wait for the end, which must come."""
        out, err = self._printed.result(timeout=PATIENCE_SECONDS)
        return subprocess.CompletedProcess(self._process.args, self._process.returncode, out, err)

    def end(self) -> None:
        """Kill it, if it is not over, and what it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._reader.shutdown()


@contextmanager
def started_on(
    cluster: Cluster, node: int, command: Sequence[str | Path], environment: Mapping[str, str] | None = None
) -> Iterator[Command]:
    """A command on a node, ended with the body; `environment` instead of the cluster's."""
    started = Command(cluster.start(node, command, environment=environment))
    try:
        yield started
    finally:
        started.end()


def wait_while(condition: Callable[[], bool], look: Callable[[], object] = lambda: None) -> None:
    """Return when `condition` no longer holds, looking around meanwhile; fail after a long time."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while condition():
        assert time.monotonic() < deadline, "what was waited for did not happen"
        look()
        time.sleep(0.2)
