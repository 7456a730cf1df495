"""A cluster of one node with its dashboard, and jobs that are submitted to it, all by Ray's own command."""

import json
import re
import shutil
import socket
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec

import pytest

from tests.ray.command_cases import COMMAND, ROOT, TIMEOUT_SECONDS, environment, started, wait_for

RAY = COMMAND.with_name("ray")
AUTH = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "5e" * 32}
# Two processes of one machine must not meet on any port; Ray has a fixed one for each of these.
_PORTS = (
    "port",
    "dashboard-port",
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "runtime-env-agent-port",
    "metrics-export-port",
    "ray-client-server-port",
)
_NEEDED = ("aiohttp", "aiohttp_cors", "opencensus", "opentelemetry", "prometheus_client", "smart_open", "virtualenv")
_missing = [name for name in _NEEDED if find_spec(name) is None]
needs_dashboard = pytest.mark.skipif(
    bool(_missing), reason=f"jobs need Ray's dashboard (ray[default]): {', '.join(_missing)} missing"
)


@dataclass(frozen=True)
class JobCluster:
    """Where jobs go, and where metrics are read."""

    dashboard: str
    metrics: str

    def submit(self, *entrypoint: str, more: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
        """`ray job submit` to its end: its exit code is the job's, its output has the job's log."""
        command = ["job", "submit", "--working-dir", ".", *more, "--", *entrypoint]
        return self.run(*command)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`ray ARGUMENTS` against this cluster."""
        where = AUTH | {"RAY_API_SERVER_ADDRESS": self.dashboard}
        return subprocess.run(
            [str(RAY), *arguments],
            cwd=ROOT,
            env=environment(where),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )

    def stop(self, submission_id: str) -> None:
        """What `ray job stop` does, without the seconds that this takes to start."""
        path = f"{self.dashboard}/api/jobs/{submission_id}"

        def ask(path: str, method: str) -> str:
            asked = urllib.request.Request(path, headers=_bearer(), method=method)
            with urllib.request.urlopen(asked, timeout=30) as answer:
                return str(json.loads(answer.read()).get("status"))

        ask(f"{path}/stop", "POST")
        wait_for(lambda: ask(path, "GET") in ("STOPPED", "SUCCEEDED", "FAILED"))

    def metric_names(self) -> set[str]:
        """The names of all metrics that the node has now."""
        with urllib.request.urlopen(self.metrics, timeout=30) as answer:
            return set(re.findall(r"^(\w+)\{", answer.read().decode(), re.MULTILINE))


@contextmanager
def job_cluster() -> Iterator[JobCluster]:
    """A cluster that has nothing to do with any other on this machine, ended with the body.

    Its PATH begins with the tests' own Python: `python` in a job is what the cluster finds by that name.
    """
    ports = dict(zip(_PORTS, _free_ports(len(_PORTS)), strict=True))
    folder = tempfile.mkdtemp(prefix="lmj-")  # short: the paths of Unix sockets are bounded
    head = [RAY, "start", "--head", "--block", "--disable-usage-stats", "--include-dashboard=true", "--num-cpus=4"]
    where = [*(f"--{name}={port}" for name, port in ports.items()), "--node-ip-address=127.0.0.1"]
    sizes = [f"--temp-dir={folder}", f"--object-store-memory={200 * 2**20}"]
    more = {
        "PATH": f"{COMMAND.parent}:{environment()['PATH']}",
        "OMP_NUM_THREADS": "1",
        "RAY_metrics_report_interval_ms": "1000",  # of ten seconds a short job would see nothing
    }
    cluster = JobCluster(
        dashboard=f"http://127.0.0.1:{ports['dashboard-port']}",
        metrics=f"http://127.0.0.1:{ports['metrics-export-port']}/metrics",
    )
    try:
        with started([*head, *where, *sizes], AUTH | more) as process:
            wait_for(lambda: _takes_jobs(cluster), process)
            yield cluster
            process.terminate()
            process.wait(timeout=60)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _takes_jobs(cluster: JobCluster) -> bool:
    asked = urllib.request.Request(f"{cluster.dashboard}/api/jobs/", headers=_bearer())
    try:
        with urllib.request.urlopen(asked, timeout=10) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _bearer() -> dict[str, str]:
    return {"Authorization": f"Bearer {AUTH['RAY_AUTH_TOKEN']}"}


def _free_ports(count: int) -> list[int]:
    """All held at the same time, so that they differ."""
    with ExitStack() as stack:
        servers = [stack.enter_context(closing(socket.create_server(("127.0.0.1", 0)))) for _ in range(count)]
        return [int(server.getsockname()[1]) for server in servers]


def output_of(done: subprocess.CompletedProcess[str]) -> str:
    """What a job has written, without what Ray says about it."""
    return (done.stdout + done.stderr).partition("Running entrypoint")[2]
