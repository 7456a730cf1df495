"""`ray job submit` from a machine outside to a cluster of two nodes: where its agents stand, its log, its results."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.multinode.cluster import Cluster
from tests.multinode.runs import make_cluster, started_on, wait_while
from tests.ray.command_cases import COMMAND, ROOT, read_rows
from tests.ray.job_cases import needs_dashboard

HEAD, WORKER, OUTSIDE = range(3)
RAY = COMMAND.with_name("ray")
SIZE = ["--model", "tiny", "--limit", "6", "--batch-size", "1", "--latent-steps", "60", "--max-new-tokens", "60"]

pytestmark = [pytest.mark.slow, needs_dashboard]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes, each with cores for all agents, and a machine that only reaches them."""
    with make_cluster(4, 4, None, dashboard=True) as cluster:
        yield cluster


# What `ray list actors` asks, without the seconds that this takes to start: the actors live no longer than the job.
LIST_ACTORS = """
import os, sys, urllib.request
token = {"Authorization": "Bearer " + os.environ["RAY_AUTH_TOKEN"]}
asked = urllib.request.Request(sys.argv[1] + "/api/v0/actors?limit=1000", headers=token)
print(urllib.request.urlopen(asked, timeout=60).read().decode())
"""


def nodes_of_agents(cluster: Cluster) -> list[str]:
    """The node of every agent's actor that is alive, by Ray's own account."""
    ask = [sys.executable, "-c", LIST_ACTORS, cluster.dashboard_url]
    output = cluster.machines[OUTSIDE].run(ask, environment=cluster.environment, timeout_seconds=120)
    actors = json.loads(output.stdout)["data"]["result"]["result"] if output.returncode == 0 else []
    kinds = ("AgentActor", "TextActor")
    return sorted(one["node_id"] for one in actors if one["class_name"] in kinds and one["state"] == "ALIVE")


@pytest.mark.parametrize(("placement", "num_nodes"), [("spread", 2), ("pack", 1)])
def test_agents_of_a_job_stand_where_it_says(cluster: Cluster, tmp_path: Path, placement: str, num_nodes: int) -> None:
    where = ["--address", cluster.dashboard_url, "--working-dir", str(ROOT)]
    run = ["python", "jobs/eval.py", *SIZE, "--placement", placement, "--output", str(tmp_path / "run")]
    seen: list[str] = []

    def look() -> None:
        nonlocal seen
        seen = max(seen, nodes_of_agents(cluster), key=len)

    with started_on(cluster, OUTSIDE, [RAY, "job", "submit", *where, "--", *run]) as job:
        wait_while(lambda: len(seen) < 4 and not job.is_over, look)
        done = job.finish()
    log = done.stdout
    assert done.returncode == 0, log
    assert (len(seen), len(set(seen))) == (4, num_nodes)
    assert "latent: 6/6 questions" in log
    assert f"placement {placement}" in log
    assert "accuracy" in log
    assert len(read_rows(tmp_path / "run")) == 6
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["num_failed"] == 0
