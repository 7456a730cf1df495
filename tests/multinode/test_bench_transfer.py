"""The transfer benchmark between two nodes: a link more, and two clocks."""

import json

import pytest

from tests.multinode.runs import make_cluster, started_on
from tests.ray.command_cases import COMMAND

pytestmark = pytest.mark.slow

FLAGS = ["--model", "tiny", "--tokens", "1,200", "--repeats", "2", "--no-end-to-end", "--json"]
FLAGS += ["--transports", "loopback,object_store,tcp"]


def test_the_link_between_two_nodes_is_measured_beside_plain_tcp() -> None:
    with make_cluster(1, 1) as cluster:
        command = [str(COMMAND), "bench", "transfer", *FLAGS, "--address", cluster.address]
        with started_on(cluster, 0, command) as process:
            done = process.finish()
    assert done.returncode == 0, done.stderr
    ways = {(way["link"], way["transport"]): way for way in json.loads(done.stdout)["ways"]}
    assert {("same_process", "loopback"), ("same_node", "object_store"), ("cross_node", "tcp")} <= set(ways)
    far = ways["cross_node", "object_store"]
    assert far["limit"] == "TCP"
    assert 0 < far["clock_error_seconds"] < 0.1
    for size in far["sizes"]:
        assert 0 < size["move"]["seconds"] <= size["hand_over"]["seconds"] < 10
    assert all(way["clock_error_seconds"] == 0 for way in ways.values() if way["link"] != "cross_node")
