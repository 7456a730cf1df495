"""What becomes of replicas that cannot be started again where they were; without Ray, and without actors."""

import pytest

from latentmas_ray.actors import manager as fleet_module
from latentmas_ray.actors.manager import ReplicaManager, ReplicaRequest
from latentmas_ray.actors.replicas.replica import Replica, ReplicaState, SegmentLocation, Turn
from latentmas_ray.errors import ClusterError
from tests.cases.manager import NODES, Standing, StandingFleet, pretend, seen


@pytest.fixture
def alive(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the nodes that are alive."""
    return pretend(monkeypatch)


def fleet_of(replicas: int) -> ReplicaManager:
    """Two agents, a replica of each on every node."""
    request = ReplicaRequest(
        agents=("planner", "judger"),
        replicas={"planner": replicas, "judger": replicas},
        make_runner=lambda: None,  # type: ignore[arg-type,return-value]
        placement="pack",
        uses_gpus=False,
    )
    fleet = StandingFleet(request)
    fleet.start(seen(NODES[:replicas]))
    return fleet


def on(fleet: ReplicaManager, agent: str, node: str) -> Replica:
    return next(replica for replica in fleet.replicas_of()[agent] if replica.nodes == (node,))


def lose(fleet: ReplicaManager, replica: Replica) -> None:
    replica.mark_dead("it died")
    fleet.replace(replica)


def test_replicas_of_a_dead_node_are_found_however_late_each_is_missed(alive: list[str]) -> None:
    """Nobody misses an actor that has nothing to do."""
    fleet = fleet_of(2)
    alive.remove("far")
    for agent in ("planner", "judger"):
        lose(fleet, on(fleet, agent, "far"))
        assert fleet.poll_starting() == ([], [])
        (orphan,) = fleet.find_orphans(set(alive))
        assert orphan is on(fleet, agent, "far")
        assert orphan.state is ReplicaState.REPLACING
        assert fleet.drop(orphan)
        assert orphan.state is ReplicaState.LOST
        assert [replica.nodes for replica in fleet.replicas_of()[agent]] == [("near",)]


def test_a_replica_without_a_place_is_done_without_if_there_is_another(
    alive: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = fleet_of(2)
    alive.remove("far")
    monkeypatch.setattr(fleet_module, "START_SECONDS", -1.0)
    lose(fleet, on(fleet, "planner", "far"))
    assert fleet.poll_starting() == ([], [])
    assert [replica.nodes for replica in fleet.replicas_of()["planner"]] == [("near",)]
    alive.clear()
    lose(fleet, on(fleet, "planner", "near"))
    with pytest.raises(ClusterError, match="no place was found for the actors of planner"):
        fleet.poll_starting()


def turn(number: int, final_at: float | None = None) -> Turn:
    """One that reads something, which was written then, or is not written yet."""
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
    replica = Standing([None], ["near"])
    replica.pending = dict.fromkeys(turn(number, final_at) for number, final_at in enumerate(pending))
    replica.mark_dead("it died", **lose)
    replica.mark_dead("it was ended", **lose)
    assert replica.lost_because == "it died"
    assert (replica.suspect.number if replica.suspect else None) == suspect
