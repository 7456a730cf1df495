"""Actors, nodes and links that die during a run: it continues, loses nothing, and its answers are the same."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from latentmas_ray.env import read_environment
from tests.multinode.campaign.log import judge
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
from tests.ray.command_cases import read_rows

NUM_QUESTIONS = 40
MANY_QUESTIONS = 200
HEAD, WORKER, OTHER = range(3)
# Half a minute of silence, where Ray's own default is more than one.
SOON_DEAD = {"RAY_health_check_timeout_ms": "4000", "RAY_health_check_failure_threshold": "4"}
# Longer than any run: Ray does not report in time that a node is gone.
NEVER_DEAD = {"RAY_health_check_timeout_ms": "4000", "RAY_health_check_failure_threshold": "100000"}
SPREAD = ["--placement", "spread"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The evaluation that is disturbed."""
    return evaluation(write_questions(tmp_path_factory.mktemp("task"), NUM_QUESTIONS), "sequential")


@pytest.fixture(scope="module")
def undisturbed(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What it gives otherwise."""
    return local_rows(command, tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture
def has_redis() -> None:
    """Skip, or fail where `multinode` is required, without what keeps the state of Ray's control service."""
    if shutil.which("redis-server") is None:
        tell = pytest.fail if "multinode" in read_environment().require else pytest.skip
        tell("redis-server is missing")


def run_through(
    cluster: Cluster, command: list[str], folder: Path, faults: list[tuple[int, Callable[[], object]]]
) -> tuple[list[dict[str, Any]], str]:
    """The rows of a run and what it said, with each fault after a number of answers."""
    run = [*command, "--address", cluster.address, "--output", str(folder)]
    num_questions = len(Path(command[command.index("--task") + 1]).read_text().splitlines())
    with started_on(cluster, HEAD, run) as process:
        for num_answers, fault in faults:
            wait_while(lambda: len(read_rows(folder)) < num_answers and not process.is_over)  # noqa: B023
            assert len(read_rows(folder)) < num_questions, "the run was over before it was disturbed"
            assert not process.is_over
            fault()
        done = process.finish()
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return [timeless(row) for row in read_rows(folder)], done.stderr


def check_unchanged(rows: list[dict[str, Any]], undisturbed: list[dict[str, Any]], said: str) -> None:
    """The rows are the same, in the same order; else say what the run said of its faults."""
    assert judge(rows, undisturbed) == ("ok", ""), said
    assert rows == undisturbed, "their order"


def test_a_run_outlives_an_actor_and_then_a_node(
    command: list[str], undisturbed: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Three nodes: an actor of one dies, then another node, without a word."""
    with make_cluster(2, 2, 2, more=SOON_DEAD) as cluster:
        faults = [(2, lambda: cluster.kill_actor(WORKER)), (8, lambda: cluster.power_off(OTHER))]
        rows, said = run_through(cluster, [*command, *SPREAD], tmp_path / "run", faults)
        assert cluster.num_actors(OTHER) == 0
    check_unchanged(rows, undisturbed, said)
    assert said.count("continuing") >= 2


def test_a_run_outlives_a_node_whose_processes_die(
    command: list[str], undisturbed: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Their connections break, so the run knows at once what Ray does not know yet. All actors go to the other node."""
    with make_cluster(1, 1, more=SOON_DEAD) as cluster:
        rows, said = run_through(cluster, command, tmp_path / "run", [(3, lambda: cluster.crash(WORKER))])
        wait_while(lambda: cluster.num_actors(HEAD) > 0)
    check_unchanged(rows, undisturbed, said)
    assert "died" in said


def test_replicas_on_other_nodes_do_the_work_of_those_that_are_gone(
    command: list[str], undisturbed: list[dict[str, Any]], tmp_path: Path
) -> None:
    """At once: Ray says nothing of the node's death here."""
    with make_cluster(2, 2, more=NEVER_DEAD) as cluster:
        replicas = ["--replicas", "2", "--placement", "pack"]
        rows, said = run_through(cluster, [*command, *replicas], tmp_path / "run", [(3, lambda: cluster.crash(WORKER))])
    check_unchanged(rows, undisturbed, said)


def test_a_link_that_is_cut_for_a_while_costs_nothing(
    command: list[str], undisturbed: list[dict[str, Any]], tmp_path: Path
) -> None:
    with make_cluster(2, 2) as cluster:

        def cut_for_a_while() -> None:
            cluster.cut_off(WORKER)
            time.sleep(5.0)
            cluster.reconnect(WORKER)

        rows, said = run_through(cluster, [*command, *SPREAD], tmp_path / "run", [(3, cut_for_a_while)])
    check_unchanged(rows, undisturbed, said)


@pytest.mark.parametrize("placement", ["pack", "spread"])
def test_replicas_on_other_nodes_do_the_work_of_one_that_is_silent(
    placement: str, command: list[str], undisturbed: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Nothing breaks, nothing arrives, and Ray says nothing of it here."""
    with make_cluster(2, 2, more=NEVER_DEAD) as cluster:
        replicas = ["--replicas", "2", "--placement", placement]
        faults = [(3, lambda: cluster.power_off(WORKER))]
        rows, said = run_through(cluster, [*command, *replicas], tmp_path / "run", faults)
    check_unchanged(rows, undisturbed, said)
    assert "it has not answered for" in said


def test_a_run_outlives_the_control_service_of_ray(tmp_path: Path, has_redis: None) -> None:
    """It is killed and comes back; turns go from actor to actor without it, more than there are in the other runs: the
    actor's death comes after it is back."""
    command = evaluation(write_questions(tmp_path, MANY_QUESTIONS), "sequential")
    undisturbed = local_rows(command, tmp_path / "undisturbed")
    with make_cluster(2, 2, redis=True) as cluster:

        def restart() -> None:
            cluster.kill_gcs()
            time.sleep(5.0)
            cluster.start_gcs()

        faults = [(3, restart), (20, lambda: cluster.kill_actor(WORKER))]
        rows, said = run_through(cluster, [*command, *SPREAD], tmp_path / "run", faults)
    check_unchanged(rows, undisturbed, said)
    assert said.count("continuing") >= 1
