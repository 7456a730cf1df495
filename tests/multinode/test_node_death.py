"""A node that dies in the middle of a run: how the run ends, what is kept, and how it goes on with the others."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.multinode.cluster import Cluster
from tests.multinode.runs import (
    evaluation,
    finish,
    local_rows,
    make_cluster,
    started_on,
    wait_while,
    write_questions,
)
from tests.ray.actor_cases import timeless
from tests.ray.command_cases import read_rows

NUM_QUESTIONS = 80
HEAD, WORKER = range(2)
# Half a minute of silence, where Ray's own default is more than one.
SOON_DEAD = {"RAY_health_check_timeout_ms": "4000", "RAY_health_check_failure_threshold": "4"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The evaluation that is disturbed."""
    return evaluation(write_questions(tmp_path_factory.mktemp("task"), NUM_QUESTIONS), "sequential")


@pytest.fixture(scope="module")
def undisturbed(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What it gives otherwise."""
    return local_rows(command, tmp_path_factory.mktemp("undisturbed"))


@pytest.mark.parametrize("end", [Cluster.power_off, Cluster.crash], ids=["silently", "noticeably"])
def test_a_run_that_loses_a_node_ends_and_is_resumed_without_it(
    command: list[str], undisturbed: list[dict[str, Any]], tmp_path: Path, end: Callable[[Cluster, int], None]
) -> None:
    """The death of a node's processes breaks their connections; that of the machine leaves nothing but silence. In the
    first case the run ends before Ray knows that the node is lost, and the resumed run finds that out."""
    folder = tmp_path / "run"
    with make_cluster(1, 1, more=SOON_DEAD) as cluster:
        run = [*command, "--address", cluster.address, "--output", str(folder)]
        with started_on(cluster, HEAD, run) as process:
            wait_while(lambda: len(read_rows(folder)) < 3 and process.poll() is None)
            end(cluster, WORKER)
            done = finish(process)
        assert done.returncode == 1, done.stderr
        *_, said, advice = done.stderr.splitlines()
        assert said.startswith("error: the actor of agent ")
        assert " died: " in said
        assert str(folder) in advice
        assert "--resume" in advice
        assert "Traceback" not in done.stdout + done.stderr
        finished = [timeless(row) for row in read_rows(folder)]
        assert 3 <= len(finished) < NUM_QUESTIONS
        wait_while(lambda: cluster.num_actors(HEAD) > 0)

        with started_on(cluster, HEAD, [*run, "--resume"]) as process:
            resumed = finish(process)
        assert resumed.returncode == 0, resumed.stderr
        assert cluster.num_actors(WORKER) == 0
    assert all(row in undisturbed for row in finished)
    assert [timeless(row) for row in read_rows(folder)] == undisturbed
