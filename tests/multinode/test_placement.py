"""On two nodes: where agents stand under each placement, that their answers do not depend on it, and the link between
them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.multinode.cluster import Cluster
from tests.multinode.runs import (
    evaluation,
    local_rows,
    make_cluster,
    started_on,
    wait_while,
    write_questions,
)
from tests.ray.actor_cases import timeless
from tests.ray.command_cases import COMMAND, PAIR, read_rows

NUM_QUESTIONS = 4
HEAD, WORKER = NODES = range(2)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes, each with cores for all agents."""
    with make_cluster(4, 4) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("task")
    (folder / "pair.yaml").write_text(PAIR)
    return evaluation(write_questions(folder, NUM_QUESTIONS), str(folder / "pair.yaml"))


@pytest.fixture(scope="module")
def rows_of_one_process(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return local_rows(command, tmp_path_factory.mktemp("local"))


@pytest.mark.parametrize(
    ("placement", "actors", "links"),
    [
        ("spread", [1, 1], {"cross_node"}),
        ("pack", [0, 2], {"same_node"}),
        ("colocate", [0, 1], {"same_process"}),
    ],
)
def test_agents_stand_where_they_are_put(
    cluster: Cluster,
    command: list[str],
    rows_of_one_process: list[dict[str, Any]],
    tmp_path: Path,
    placement: str,
    actors: list[int],
    links: set[str],
) -> None:
    """Counted by the kernel while the run lasts: actors on the node with fewer, and on that with more."""
    most = [0, 0]

    def look() -> None:
        most[:] = [max(seen, cluster.num_actors(node)) for node, seen in zip(NODES, most, strict=True)]

    where = ["--address", cluster.address, "--output", str(tmp_path), "--placement", placement]
    with started_on(cluster, HEAD, [*command, *where]) as process:
        wait_while(lambda: not process.is_over, look)
        done = process.finish()
    assert done.returncode == 0, done.stderr
    assert sorted(most) == actors
    rows = read_rows(tmp_path)
    assert {transfer["link"] for row in rows for transfer in row["transfers"]} == links
    assert [timeless(row) for row in rows] == rows_of_one_process
    wait_while(lambda: any(cluster.num_actors(node) for node in NODES))


def test_the_plan_of_a_cluster_that_runs(cluster: Cluster) -> None:
    """It joins the cluster to look at it, and starts nothing there."""
    plan = [str(COMMAND), "plan", "--address", cluster.address, "--placement", "spread", "--json"]
    with started_on(cluster, HEAD, plan) as process:
        done = process.finish()
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert [node["num_cpus"] for node in made["nodes"]] == [4.0, 4.0]
    assert all(re.fullmatch("[0-9a-f]{56}", node["name"]) for node in made["nodes"])
    assert {shard["node"] for shard in made["shards"]} == {0, 1}
    assert not any(cluster.num_actors(node) for node in NODES)


def test_the_link_between_two_nodes_is_measured_against_plain_tcp(cluster: Cluster) -> None:
    """A link more than on one machine, and two clocks."""
    flags = ["--model", "tiny", "--tokens", "1,200", "--repeats", "2", "--no-end-to-end", "--json"]
    command = [str(COMMAND), "bench", "transfer", *flags, "--transports", "object_store", "--address", cluster.address]
    with started_on(cluster, HEAD, command) as process:
        done = process.finish()
    assert done.returncode == 0, done.stderr
    ways = {way["link"]: way for way in json.loads(done.stdout)["ways"]}
    far = ways["cross_node"]
    assert far["limit"] == "TCP"
    assert 0 < far["clock_error_seconds"] < 0.1
    for size in far["sizes"]:
        assert 0 < size["move"]["seconds"] <= size["hand_over"]["seconds"] < 10
    assert ways["same_node"]["clock_error_seconds"] == 0
