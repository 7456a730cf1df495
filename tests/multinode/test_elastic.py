"""Nodes that join, leave with notice and come back during a run: they are used, and answers stay the same."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.multinode.cluster import Cluster
from tests.multinode.runs import evaluation, local_rows, make_cluster, started_on, wait_while, write_questions
from tests.ray.actor_cases import timeless
from tests.ray.command_cases import read_rows

NUM_QUESTIONS = 300
HEAD, WORKER = range(2)

pytestmark = pytest.mark.slow  # tests/unit/actors/test_elastic.py has the decisions, with replicas that are stand-ins


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """The events of a run so far."""
    path = folder / "timeline.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def turns_on(folder: Path, node: str, after: float) -> list[dict[str, Any]]:
    turns = [row for row in rows_of(folder) if row["event"] == "turn" and row["submitted_at"] > after]
    return [row for row in turns if node in row["nodes"]]


def nodes_of(folder: Path) -> set[str]:
    return {node for row in rows_of(folder) if row["event"] == "replica_ready" for node in row["nodes"]}


def test_a_node_joins_leaves_with_notice_and_comes_back(tmp_path: Path) -> None:
    """One run on one node; a second one joins, is drained and removed, and joins again."""
    command = evaluation(write_questions(tmp_path, NUM_QUESTIONS), "sequential")
    undisturbed = local_rows(command, tmp_path / "undisturbed")
    folder = tmp_path / "run"
    with make_cluster(2, None) as cluster:
        run = [*command, "--address", cluster.address, "--output", str(folder), "--max-replicas", "auto"]
        with started_on(cluster, HEAD, [*run, "--timeline"]) as process:
            wait_while(lambda: len(read_rows(folder)) < 4 and not process.is_over)
            (first,) = nodes_of(folder)
            joined = join_and_wait(cluster, folder, {first})
            drained = drain_and_wait(cluster, folder)
            cluster.end_ray(WORKER)
            back = join_and_wait(cluster, folder, nodes_of(folder))
            assert not process.is_over
            done = process.finish()
    print(f"joined: first turn after {joined:.1f} s; drained: {drained:.1f} s; back: {back:.1f} s")
    assert done.returncode == 0, done.stderr
    assert [timeless(row) for row in read_rows(folder)] == undisturbed
    events = [row["event"] for row in rows_of(folder)]
    assert "replica_retired" in events
    assert "node_draining" in events
    assert "lost_turn" not in events


def join_and_wait(cluster: Cluster, folder: Path, known: set[str]) -> float:
    """The worker joins; return the seconds from then to the first turn on it."""
    cluster.join(WORKER, 2)
    at = time.time()
    wait_while(lambda: not [row for row in rows_of(folder) if row["event"] == "turn" and set(row["nodes"]) - known])
    return time.time() - at


def drain_and_wait(cluster: Cluster, folder: Path) -> float:
    """The worker is drained; return the seconds from then to when none of its replicas is left."""
    cluster.drain(WORKER, 120)
    at = time.time()
    wait_while(lambda: cluster.num_actors(WORKER) > 0)
    return time.time() - at
