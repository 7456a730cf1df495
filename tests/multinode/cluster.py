"""A real Ray cluster of several nodes on this machine: a head and raylets, each on a pretended machine of its own.

    with Cluster(num_cpus=(1, 1)) as cluster:
        cluster.start(0, ["latentmas", "ask", "why?", "--anyway", "--address", cluster.address]).wait()

Node 0 is the head. Nothing of it can be reached from outside, and nothing outside is touched: other Ray clusters on
this machine, their ports and their files are out of its sight.
"""

import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

from tests.multinode.machines import Machine, Switch

BIN = Path(sys.executable).parent
PORT = 6379
REDIS_PORT = 6380
DASHBOARD_PORT = 8265
STORE_BYTES = 150 * 2**20
START_SECONDS = 180.0
_RAYLET = re.compile(r"/raylet .*?--node_id=([0-9a-f]+)")
_STARTED = "Ray runtime started."
_TOO_SLOW = "timed out during startup"  # Ray gives a node half a minute, and a busy machine may not


# Ray's command names a node by its id, which it prints nowhere.
_FIND_NODE = """
import subprocess, sys, ray
ip, address, command, seconds = sys.argv[1:]
ray.init(address, log_to_driver=False)
(node,) = [one["NodeID"] for one in ray.nodes() if one["Alive"] and one["NodeManagerAddress"] == ip]
options = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "test"]
options += ["--deadline-remaining-seconds", seconds]
subprocess.run([command, "drain-node", "--address", address, "--node-id", node, *options], check=True)
"""


class Cluster:
    """One node for each entry of `num_cpus`; an entry of None is a machine on the same network without Ray."""

    def __init__(
        self,
        num_cpus: Sequence[int | None],
        *,
        environment: Mapping[str, str] | None = None,
        store_bytes: int = STORE_BYTES,
        dashboard: bool = False,
        redis: bool = False,
    ) -> None:
        """`environment` is that of every process on the cluster; the token that it asks for is added. With a
        `dashboard` the head takes jobs at `dashboard_url`. With `redis` the head's control service (GCS) keeps its
        state in a Redis, so that it may be killed and started again."""
        self.token = secrets.token_hex(16)
        auth = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}
        self.environment = {**(os.environ if environment is None else environment), **auth}
        self.machines: list[Machine] = []
        self._num_cpus = list(num_cpus)
        self._num_starts = [0] * len(self._num_cpus)
        self._store_bytes = store_bytes
        self._dashboard = dashboard
        self._redis = redis
        self._gcs: list[str] = []  # the command line of one that was killed
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:  # what has been made by the time something fails is removed
            # A short name: the paths of Unix sockets, which Ray keeps there, are bounded.
            self._folder = Path(tempfile.mkdtemp(prefix="lmn-"))
            stack.callback(shutil.rmtree, self._folder, ignore_errors=True)
            self._switch = stack.enter_context(Switch())
            self.machines = [stack.enter_context(Machine(f"node {index}")) for index in range(len(self._num_cpus))]
            self._addresses = [self._switch.plug_in(machine) for machine in self.machines]
            if self._redis:
                self._start_redis()
            self._start_ray([0])
            self._start_ray([index for index, cpus in enumerate(self._num_cpus) if index and cpus is not None])
            stack.callback(self._power_off_replaced)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @property
    def address(self) -> str:
        """HOST:PORT of the head."""
        return f"{self._addresses[0]}:{PORT}"

    @property
    def dashboard_url(self) -> str:
        """Where the head takes jobs, as seen from the cluster's machines."""
        return f"http://{self._addresses[0]}:{DASHBOARD_PORT}"

    def start(
        self, node: int, command: Sequence[str | Path], *, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """A command on a node, with `environment` instead of the cluster's. It ends with the node at the latest."""
        return self.machines[node].start(command, environment=environment or self.environment)

    def join(self, node: int, num_cpus: int) -> None:
        """Start Ray on a machine that has none, or whose Ray has ended: a new node of the cluster."""
        self._num_cpus[node] = num_cpus
        self._start_ray([node])

    def drain(self, node: int, seconds: int) -> None:
        """Tell Ray that a node will be removed after so many seconds; nothing removes it."""
        command: list[str | Path] = [
            BIN / "python",
            "-c",
            _FIND_NODE,
            self._addresses[node],
            str(self.address),
            str(BIN / "ray"),
            str(seconds),
        ]
        done = self.machines[0].run(command, environment=self.environment, timeout_seconds=60.0)
        assert done.returncode == 0, done.stderr

    def end_ray(self, node: int) -> None:
        """End Ray on a node at once; its machine stays."""
        for pid in self.machines[node].processes():
            if pid != self.machines[node].pid:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def num_actors(self, node: int) -> int:
        """How many agents' actors live on a node, by the kernel's own account."""
        return len(self.actors(node))

    def kill_actor(self, node: int) -> None:
        """One of the agents' actors on a node dies."""
        os.kill(self.actors(node)[0], signal.SIGKILL)

    def host(self, node: int) -> str:
        """The address of a node."""
        return self._addresses[node]

    def kill_gcs(self) -> None:
        """The head's control service dies; the head's raylet and actors do not. Needs `redis`."""
        (gcs,) = [pid for pid, name in self.machines[0].processes().items() if "/gcs_server " in f"{name} "]
        self._gcs = Path(f"/proc/{gcs}/cmdline").read_text().rstrip("\0").split("\0")
        os.kill(gcs, signal.SIGKILL)

    def start_gcs(self) -> None:
        """After `kill_gcs`, as a supervisor would: it finds its state in Redis."""
        output = self._folder / "gcs again.log"
        self.machines[0].start(self._gcs, environment=self.environment, output=output)

    def crash(self, node: int) -> None:
        """All processes of a node die, and their connections with them, which Ray notices at once."""
        self.machines[node].power_off()

    def power_off(self, node: int) -> None:
        """A node dies as by a power cut: it just says nothing any more. It does not come back."""
        self._switch.unplug(self.machines[node])
        self.machines[node].power_off()

    def cut_off(self, node: int) -> None:
        """Nothing arrives at a node, or comes from it, until it is `reconnect`ed."""
        self._switch.unplug(self.machines[node])

    def reconnect(self, node: int) -> None:
        """After `cut_off`."""
        self._switch.plug_in_again(self.machines[node])

    def restart(self, node: int, *, wait: bool = True) -> None:
        """A worker comes back as a new machine with the same address, if need be after `crash`; with `wait`, Ray runs
        there afterwards."""
        self.machines[node].power_off()
        self.machines[node] = Machine(f"node {node}")
        self._switch.plug_in(self.machines[node], self._addresses[node])
        self._num_starts[node] += 1
        if wait:
            self._start_ray([node])
        else:
            self._start_node(node)

    def node_id(self, node: int) -> str | None:
        """What Ray calls a node, or None if its raylet does not run."""
        for name in self.machines[node].processes().values():
            if (found := _RAYLET.search(name)) is not None:
                return found[1]
        return None

    def slow_down(self, node: int, megabits: int) -> None:
        """The link of a node carries no more than this many Mbit/s, until `speed_up`."""
        self._switch.slow_down(self.machines[node], megabits)

    def speed_up(self, node: int) -> None:
        """After `slow_down`."""
        self._switch.speed_up(self.machines[node])

    def _power_off_replaced(self) -> None:
        for machine in self.machines:  # the first ones are ended anyway
            machine.power_off()

    def actors(self, node: int) -> list[int]:
        """The processes of the agents' actors on a node, by their numbers outside."""
        processes = self.machines[node].processes()
        return sorted(pid for pid, name in processes.items() if name.startswith(("ray::AgentActor", "ray::TextActor")))

    def _start_ray(self, nodes: Sequence[int]) -> None:
        """Start Ray on these nodes, all at the same time."""
        starting = {node: self._start_node(node) for node in nodes}
        deadline = time.monotonic() + START_SECONDS
        while starting:
            for node, process in list(starting.items()):
                said = self._log(node).read_text()
                if _STARTED in said:
                    del starting[node]
                elif _TOO_SLOW in said and process.poll() is not None and time.monotonic() < deadline:
                    starting[node] = self._start_node(node)
                elif process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"Ray did not start on node {node}:\n{said}")
            time.sleep(0.05)

    def _start_node(self, node: int) -> subprocess.Popen[str]:
        command, environment = self._command(node), dict(self.environment)
        if self._redis and node == 0:
            environment["RAY_REDIS_ADDRESS"] = f"{self._addresses[0]}:{REDIS_PORT}"
            # With --block it would end the whole head with its control service.
            started = shlex.join(part for part in command if part != "--block")
            command = ["sh", "-c", f"{started} && exec sleep infinity"]
        return self.machines[node].start(command, environment=environment, output=self._log(node))

    def _start_redis(self) -> None:
        """On the head, in memory only."""
        log = self._folder / "redis.log"
        where = ["--bind", self._addresses[0], "--port", str(REDIS_PORT), "--dir", str(self._folder)]
        how = ["--save", "", "--appendonly", "no", "--protected-mode", "no"]
        process = self.machines[0].start(["redis-server", *where, *how], environment=self.environment, output=log)
        deadline = time.monotonic() + START_SECONDS
        while "Ready to accept connections" not in log.read_text():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"Redis did not start:\n{log.read_text()}")
            time.sleep(0.05)

    def _command(self, node: int) -> list[str]:
        place = [f"--address={self.address}"]
        if node == 0:
            shown = f"--include-dashboard={str(self._dashboard).lower()}"
            place = ["--head", f"--port={PORT}", shown, "--dashboard-host=0.0.0.0"]
        sizes = [f"--num-cpus={self._num_cpus[node]}", f"--object-store-memory={self._store_bytes}"]
        where = [f"--node-ip-address={self._addresses[node]}", f"--temp-dir={self._session_folder(node)}"]
        return [str(BIN / "ray"), "start", "--block", "--disable-usage-stats", *place, *sizes, *where]

    def _session_folder(self, node: int) -> Path:
        # A raylet that comes back finds no sockets of the one before.
        again = self._num_starts[node]
        return self._folder / (f"{node}.{again}" if again else str(node))

    def _log(self, node: int) -> Path:
        return self._folder / f"{node}.log"
