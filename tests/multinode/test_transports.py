"""Memory that goes from node to node without the object store, and a node that is gone in the middle of it."""

import json
import os
import sys
from pathlib import Path

import pytest

from tests.multinode.cluster import Cluster
from tests.multinode.transport_reads import TIMEOUT_SECONDS

ROOT = Path(__file__).parents[2]


@pytest.mark.slow  # it waits for deaths to be noticed; runs on two nodes in `test_command.py` use tcp
def test_gloo_and_tcp_reach_the_other_node_and_report_its_death() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with Cluster(num_cpus=(1, 1), environment=environment) as cluster:
        program = cluster.start(0, [sys.executable, "-m", "tests.multinode.transport_reads"])
        assert program.stdout is not None
        assert program.stderr is not None
        refused, *reads = (json.loads(program.stdout.readline() or program.stderr.read()) for _ in range(5))
        assert refused["error"] == "TransferError"
        assert "another machine" in refused["message"]
        for read in reads:
            assert (read["error"], read["message"]) == ("", "")
        assert program.stdout.readline() == "reading\n"
        cluster.power_off(1)
        for last in (json.loads(program.stdout.readline()) for _ in range(2)):
            assert last["error"] == "TransferError", last
            assert last["seconds"] < 2 * TIMEOUT_SECONDS + 3
        program.kill()
        program.communicate()
