"""Replicas that cannot be restarted on their nodes; no Ray, no actors."""

from dataclasses import replace
from typing import Any

import pytest

from latentmas_ray.actors.manager import ReplicaManager
from latentmas_ray.actors.replicas.replica import Replica, ReplicaState, SegmentLocation, Turn
from latentmas_ray.actors.replicas.request import ReplicaRequest
from latentmas_ray.actors.text.setup import TextSetup
from latentmas_ray.errors import ClusterError, ConfigError
from tests.cases.manager import NODES, FakeManager, FakeReplica, cluster_of, fake_cluster


@pytest.fixture
def alive(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the nodes that are alive."""
    return fake_cluster(monkeypatch)


def manager_of(replicas: int, start_seconds: float = 1800.0) -> ReplicaManager:
    """Two agents, a replica of each on every node."""
    request = ReplicaRequest(
        agents=("planner", "judger"),
        replicas={"planner": replicas, "judger": replicas},
        make_runner=lambda: None,  # type: ignore[arg-type,return-value]
        placement="pack",
        uses_gpus=False,
        start_seconds=start_seconds,
    )
    manager = FakeManager(request)
    manager.start(cluster_of(NODES[:replicas]))
    return manager


def on(manager: ReplicaManager, agent: str, node: str) -> Replica:
    return next(replica for replica in manager.replicas_of()[agent] if replica.nodes == (node,))


def kill_and_replace(manager: ReplicaManager, replica: Replica) -> None:
    replica.mark_dead("it died")
    manager.replace(replica)


def test_replicas_of_a_dead_node_are_found_however_late_each_is_missed(alive: list[str]) -> None:
    """The loss of an idle actor is noticed late."""
    manager = manager_of(2)
    alive.remove("far")
    for agent in ("planner", "judger"):
        kill_and_replace(manager, on(manager, agent, "far"))
        assert manager.poll_starting() == ([], [])
        (orphan,) = manager.find_orphans(set(alive))
        assert orphan is on(manager, agent, "far")
        assert orphan.state is ReplicaState.REPLACING
        assert manager.drop(orphan)
        assert orphan.state is ReplicaState.LOST
        assert [replica.nodes for replica in manager.replicas_of()[agent]] == [("near",)]


def test_a_node_that_has_ended_is_left_out_though_another_dies_while_the_actors_start(alive: list[str]) -> None:
    """Ray may still list the first one."""
    request = ReplicaRequest(
        agents=("planner", "judger"),
        replicas={"planner": 1, "judger": 1},
        make_runner=lambda: None,  # type: ignore[arg-type,return-value]
        placement="spread",
        uses_gpus=False,
    )
    manager = FakeManager(request)
    manager.start(replace(cluster_of(("near", "third")), without=frozenset({"far"})))
    assert {replica.nodes for replica in manager.replicas} == {("near",)}


def test_a_replica_without_a_place_is_done_without_if_there_is_another(
    alive: list[str],
) -> None:
    manager = manager_of(2, start_seconds=1e-9)
    alive.remove("far")
    kill_and_replace(manager, on(manager, "planner", "far"))
    assert manager.poll_starting() == ([], [])
    assert [replica.nodes for replica in manager.replicas_of()["planner"]] == [("near",)]
    alive.clear()
    kill_and_replace(manager, on(manager, "planner", "near"))
    with pytest.raises(ClusterError, match="no place was found for the actors of planner"):
        manager.poll_starting()


def test_an_agent_on_vllm_is_planned_into_an_actor_of_its_own(alive: list[str]) -> None:
    def load() -> Any:
        raise AssertionError("nothing is loaded here")

    texts = {name: TextSetup(make_runner=load, max_running=4, engine=name) for name in ("transformers", "vllm")}
    request = ReplicaRequest(
        agents=("planner", "writer", "judger"),
        replicas=dict.fromkeys(("planner", "writer", "judger"), 1),
        make_runner=load,
        placement="colocate",
        texts={"writer": texts["transformers"], "judger": texts["vllm"]},
        uses_gpus=False,
    )
    assert ReplicaManager(request).engines == {"judger": "vllm"}
    with pytest.raises(ConfigError, match="vLLM, which writes for judger, needs an actor of its own"):
        FakeManager(request).start(cluster_of(NODES))
    apart = FakeManager(replace(request, placement="auto"))
    apart.start(cluster_of(NODES))
    assert not apart.plan.is_colocated


def turn(number: int, final_at: float | None = None) -> Turn:
    """A turn that reads one segment, written at `final_at` or not written yet."""
    return Turn(number, float(number), (), {"planner": (SegmentLocation("near", final_at=final_at),)})


@pytest.mark.parametrize(
    ("pending", "lose", "suspect"),
    [
        pytest.param([None, 5.0], {}, 1, id="the turn that can have begun"),
        pytest.param([None, None], {}, 0, id="the first one, which may read what comes early"),
        pytest.param([5.0], {"is_at_fault": False}, None, id="none, if its end was decided elsewhere"),
        pytest.param([], {}, None, id="none, if there is none"),
    ],
)
def test_which_turn_a_replica_may_have_died_of(
    pending: list[float | None], lose: dict[str, bool], suspect: int | None
) -> None:
    replica = FakeReplica([None], ["near"])
    replica.pending = dict.fromkeys(turn(number, final_at) for number, final_at in enumerate(pending))
    replica.mark_dead("it died", **lose)
    replica.mark_dead("it was ended", **lose)
    assert replica.lost_because == "it died"
    assert (replica.suspect.number if replica.suspect else None) == suspect
