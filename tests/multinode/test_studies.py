"""A study on a cluster: both nodes run cells, and a node that dies takes none along."""

import json
import sys
from pathlib import Path

import pytest

from tests.multinode.runs import make_cluster, started_on, wait_while

HEAD, WORKER = 0, 1
CELLS = ["pretrain-*", "sft-*-small-1"]
NUM_CELLS = 12


@pytest.mark.slow  # tests/ray/test_studies.py runs tasks, deaths and interruptions on one node
def test_a_study_runs_on_two_nodes_of_which_one_dies(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "examples.training.front_loading", str(tmp_path / "study"), "--minute"]
    with make_cluster(1, 1) as cluster:
        where = ["--address", cluster.address, "--only", *CELLS]
        with started_on(cluster, HEAD, [*command, *where]) as process:
            finished = tmp_path / "study" / "cells.jsonl"
            wait_while(lambda: not process.is_over and cluster.host(WORKER) not in nodes_of(finished))
            cluster.crash(WORKER)
            done = process.finish()
        assert done.returncode == 0, done.stderr
        assert set(nodes_of(finished)) == {cluster.host(HEAD), cluster.host(WORKER)}
    assert len(nodes_of(finished)) == NUM_CELLS
    assert f"{NUM_CELLS} cells, seeds 1" in done.stdout
    assert list((tmp_path / "study" / "states").iterdir()) == []


def nodes_of(path: Path) -> list[str]:
    """Where each finished cell was run."""
    return [json.loads(line)["node"] for line in path.read_text().splitlines()] if path.exists() else []
