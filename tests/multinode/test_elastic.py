"""Nodes that join, leave with notice and come back during a run: they are used, no turn is lost, no answer changes."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.multinode.elastic_driver import SEEN_NAME
from tests.multinode.runs import make_cluster, started_on, wait_while

ROOT = Path(__file__).parents[2]
NUM_QUESTIONS = 1000
HEAD, WORKER = range(2)

pytestmark = pytest.mark.slow  # tests/unit/actors/test_elastic*.py have the decisions, with replicas that are stand-ins


def events_in(folder: Path) -> list[dict[str, Any]]:
    """What the run has told so far."""
    path = folder / "events.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def turns_elsewhere(folder: Path, known: set[str]) -> bool:
    return any(one["event"] == "TurnFinished" and set(one["nodes"]) - known for one in events_in(folder))


def nodes_of(folder: Path) -> set[str]:
    return {node for one in events_in(folder) if one["event"] == "TurnFinished" for node in one["nodes"]}


def test_a_node_joins_leaves_with_notice_and_comes_back(tmp_path: Path) -> None:
    """One run that starts on one node; a second one joins, is drained and removed, and joins again."""
    with make_cluster(2, None, more={"PYTHONPATH": str(ROOT)}) as cluster:
        driver = [sys.executable, "-m", "tests.multinode.elastic_driver", cluster.address, tmp_path, NUM_QUESTIONS, 0.4]
        with started_on(cluster, HEAD, [str(word) for word in driver]) as process:

            def wait_for(happened: Callable[[], bool]) -> float:
                begin = time.time()
                wait_while(lambda: not happened() and not process.is_over)
                assert not process.is_over, process.finish().stderr
                return time.time() - begin

            wait_for(lambda: len(nodes_of(tmp_path)) == 1)
            first = nodes_of(tmp_path)
            cluster.join(WORKER, 2)
            joined = wait_for(lambda: turns_elsewhere(tmp_path, first))
            second = nodes_of(tmp_path)
            cluster.drain(WORKER, 120)
            drained = wait_for(lambda: cluster.num_actors(WORKER) == 0)
            cluster.end_ray(WORKER)
            cluster.join(WORKER, 2)
            back = wait_for(lambda: turns_elsewhere(tmp_path, second))
            # All has been seen: at 0.4 s a turn the rest would take minutes, and more than `finish` waits where other
            # tests have the machine's cores.
            (tmp_path / SEEN_NAME).touch()
            done = process.finish()
    print(f"joined: first turn after {joined:.1f} s; drained: {drained:.1f} s; back: {back:.1f} s")
    assert done.returncode == 0, done.stderr
    check_nothing_is_lost(tmp_path)


def check_nothing_is_lost(folder: Path) -> None:
    """Every question has its answer, and no turn was repeated."""
    answers = json.loads((folder / "answers.json").read_text())
    assert answers == {f"q{i}": f"q{i}: judger has read ['planner']" for i in range(NUM_QUESTIONS)}
    told = [one["event"] for one in events_in(folder)]
    assert {"NodeJoined", "NodeDraining", "ReplicaRetired", "ReplicaReady"} <= set(told)
    assert "TurnRepeated" not in told
    assert "ReplicaLost" not in told
