"""The cluster of a campaign: three nodes that are made whole again between schedules."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.multinode.campaign.schedule import WORKERS
from tests.multinode.cluster import BIN, Cluster
from tests.multinode.machines import kill_session
from tests.multinode.runs import make_cluster

HEAD = 0
NUM_CPUS = (2, 2, 2)
# Half a minute of silence, where Ray's own default is more than one.
SOON_DEAD = {"RAY_health_check_timeout_ms": "4000", "RAY_health_check_failure_threshold": "4"}
HEAL_SECONDS = 240.0
JOIN_SECONDS = 30.0  # until Ray lists a node that says it has started
_POLL_SECONDS = 0.2
_PREEMPTED = "DRAIN_NODE_REASON_PREEMPTION"
# Prints the living nodes by Ray's own account, whenever they change.
_WATCH = """
import json, sys, time, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
before = None
while True:
    alive = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    if alive != before:
        print(json.dumps(alive), flush=True)
    before = alive
    time.sleep(0.5)
"""


class NotHealedError(RuntimeError):
    """The cluster did not become whole in time; the message says what is missing."""


class Nodes:
    """A head and two workers, with what a schedule may do to them."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self._leaving: set[int] = set()  # told to Ray to leave, so of no use any more
        self._folder = folder
        self._log = folder / "nodes.jsonl"
        command = [sys.executable, "-c", _WATCH, cluster.address]
        self._watch = cluster.machines[HEAD].start(command, environment=cluster.environment, output=self._log)

    def close(self) -> None:
        """End the process that watches the nodes."""
        kill_session(self._watch)

    def actors(self) -> list[int]:
        """The processes of the agents' actors on all nodes, node by node."""
        return [pid for node in (HEAD, *WORKERS) for pid in self.cluster.actors(node)]

    def drain(self, node: int, seconds: float) -> None:
        """Tell Ray that a node will be gone after these seconds, as where a cloud takes it back."""
        self._leaving.add(node)
        if (name := self.cluster.node_id(node)) is None:
            return
        # Not waited for: the run would be over meanwhile.
        deadline = ["--deadline-remaining-seconds", str(int(seconds))]
        why = ["--reason", _PREEMPTED, "--reason-message", "a fault of the campaign"]
        command = [BIN / "ray", "drain-node", "--address", self.cluster.address, "--node-id", name, *why, *deadline]
        self.cluster.machines[HEAD].start(command, environment=self.cluster.environment, output=self._folder / "drain")

    def join(self, node: int, *, wait: bool) -> None:
        """A node that was away comes back; with `wait`, it is up afterwards."""
        self.cluster.restart(node, wait=wait)
        self._leaving.discard(node)

    def signal(self, node: int, number: signal.Signals) -> None:
        """Send a signal to all processes of a node."""
        self.cluster.machines[node].signal_all(number)

    def heal(self, workers: Sequence[int]) -> None:
        """Return when these workers, and no others, belong to the cluster by Ray's account, and no actors are left.

        Raises NotHealedError.
        """
        deadline = time.monotonic() + HEAL_SECONDS
        for worker in set(WORKERS) - set(workers):
            self.cluster.crash(worker)
        while (missing := self._what_is_missing(workers)) is not None:
            if time.monotonic() > deadline:
                raise NotHealedError(f"after {HEAL_SECONDS:.0f} s {missing}")
            time.sleep(_POLL_SECONDS)

    def _what_is_missing(self, workers: Sequence[int]) -> str | None:
        """Start again what does not run, and say what has to be waited for."""
        alive = set(self._alive())
        if self.cluster.node_id(HEAD) not in alive:
            return "Ray does not say that the head is alive"
        ours = {self.cluster.node_id(HEAD)}
        for worker in workers:
            name = self.cluster.node_id(worker)
            if name is None or worker in self._leaving or name not in alive:
                self._join_and_wait(worker)
                return f"Ray does not say that node {worker} is alive"
            ours.add(name)
        if not alive <= ours:
            return "Ray takes a node that is gone for alive"
        if left := self.actors():
            return f"{len(left)} actors are left of the run before"
        return None

    def _join_and_wait(self, worker: int) -> None:
        self.join(worker, wait=True)
        deadline = time.monotonic() + JOIN_SECONDS
        while self.cluster.node_id(worker) not in self._alive() and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)

    def _alive(self) -> list[str]:
        if self._watch.poll() is not None:
            raise NotHealedError(f"the process that watches the nodes has ended:\n{self._log.read_text()[-2000:]}")
        lines = [line for line in self._log.read_text().split("\n")[:-1] if line.startswith("[")]
        alive: list[str] = json.loads(lines[-1]) if lines else []
        return alive


@contextmanager
def three_nodes(folder: Path) -> Iterator[Nodes]:
    """A cluster of its own, gone afterwards; files of its keeper go to `folder`."""
    with make_cluster(*NUM_CPUS, more=SOON_DEAD) as cluster:
        nodes = Nodes(cluster, folder)
        try:
            yield nodes
        finally:
            nodes.close()


def dump_stacks(processes: Sequence[int], path: Path) -> None:
    """Write what these processes do at the moment, as far as py-spy is installed and can tell."""
    said = []
    for pid in processes:
        command = [BIN / "py-spy", "dump", "--pid", str(pid)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
            said.append(done.stdout + done.stderr)
        except (OSError, subprocess.TimeoutExpired) as error:
            said.append(f"no stack of {pid}: {error}\n")
    path.write_text("\n".join(said))
