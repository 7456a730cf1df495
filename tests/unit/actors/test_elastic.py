"""What the follower makes of nodes that come and go, and with what a run starts. No Ray, no actors."""

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from latentmas_ray.actors.elastic import follow
from latentmas_ray.actors.elastic import nodes as nodes_module
from latentmas_ray.actors.elastic.first import describe_first, first_plan, replicas_to_start_with
from latentmas_ray.actors.elastic.follow import ClusterFollower, Growth
from latentmas_ray.actors.elastic.nodes import NodeSupply, SupplyWatch
from latentmas_ray.actors.manager import ReplicaManager
from latentmas_ray.actors.replicas.replica import Replica, ReplicaState, Turn
from latentmas_ray.actors.replicas.request import ReplicaRequest
from latentmas_ray.errors import ClusterError, ModelError
from latentmas_ray.placement import ActorPlanner, NodeResources, PlanRequest, ReplicaId
from latentmas_ray.runs.run_events import NodeDraining, ReplicaRetired
from latentmas_ray.scheduler.protocol import CapacityChanged, Event
from tests.cases.manager import FakeManager, FakeReplica, cluster_of, fake_cluster


class FakeWatch(SupplyWatch):
    """Gives the nodes that a test puts there, each time."""

    def __init__(self) -> None:
        self.nodes: dict[str, NodeSupply] = {}
        self.calls: list[Callable[[], None]] = []

    def take(self) -> Mapping[str, NodeSupply]:
        return self.nodes

    def run(self, call: Callable[[], None]) -> None:
        self.calls.append(call)

    def close(self) -> None:
        pass


def free(name: str, cpus: float, *, is_draining: bool = False) -> NodeSupply:
    return NodeSupply(name=name, free_gpus=0.0, free_cpus=cpus, num_cpus=2.0, is_draining=is_draining)


class Followed:
    """A manager of two agents on node `near`, and its follower."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        most: Mapping[str, int | None],
        *,
        replicas: Mapping[str, int] | None = None,
        rebalances: bool = False,
        keeps_layout: bool = False,
    ) -> None:
        self.alive = fake_cluster(monkeypatch)
        request = ReplicaRequest(
            agents=("thinker", "judger"),
            replicas=replicas or {"thinker": 1, "judger": 1},
            make_runner=lambda: None,  # type: ignore[arg-type,return-value]
            placement="pack",
            uses_gpus=False,
            num_threads=1,
            planner=ActorPlanner(keeps_layout=keeps_layout),
        )
        self.manager: ReplicaManager = FakeManager(request)
        self.manager.start(cluster_of(["near"]))
        monkeypatch.setattr(type(self.manager), "reaches_other_nodes", True)
        self.events: list[Event] = []
        self.needed: set[Replica] = set()
        self.watch = FakeWatch()
        self.follower = ClusterFollower(
            self.manager,
            SimpleNamespace(unreachable_nodes=frozenset()),  # type: ignore[arg-type]
            Growth(most, rebalances=rebalances),
            self.events.append,
            self.needed.__contains__,
            watch=self.watch,
        )

    def update(self, *nodes: NodeSupply) -> None:
        self.watch.nodes = {node.name: node for node in nodes}
        self.follower.update()
        self.manager.poll_starting()

    def nodes_of(self, agent: str) -> list[str]:
        return [replica.nodes[0] for replica in self.manager.replicas_of()[agent] if replica.takes_turns]


def test_a_node_that_joins_is_used_up_to_what_an_agent_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Followed(monkeypatch, {"judger": 3})
    run.update(free("near", 0.0))
    assert run.nodes_of("judger") == ["near"]
    run.update(free("near", 0.0), free("far", 2.0))
    assert run.nodes_of("judger") == ["near", "far", "far"]
    run.update(free("near", 0.0), free("far", 2.0))  # what was asked for there is not taken yet
    assert (run.nodes_of("judger"), run.nodes_of("thinker")) == (["near", "far", "far"], ["near"])
    assert [event.num_replicas for event in run.events if isinstance(event, CapacityChanged)] == [3]
    assert {str(name) for name in run.manager.by_id} == {"thinker 0", "judger 0", "judger 1", "judger 2"}


def test_a_node_that_leaves_hands_over_before_its_replicas_end(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Followed(monkeypatch, {})
    thinker, judger = run.manager.replicas
    turn = Turn(1, 0.0, (), {})
    judger.pending[turn] = None
    run.needed.add(thinker)
    leaving, other = free("near", 0.0, is_draining=True), free("far", 2.0)
    run.update(leaving, other)
    assert [one.state for one in (thinker, judger)] == [ReplicaState.READY] * 2
    assert NodeDraining("near") in run.events
    run.update(leaving, other)  # the others have loaded
    assert [one.state for one in (thinker, judger)] == [ReplicaState.RETIRING] * 2
    assert (run.nodes_of("thinker"), run.nodes_of("judger")) == (["far"], ["far"])
    run.update(leaving, other)
    assert {thinker, judger} <= set(run.manager.replicas)  # one has a turn, the other a segment that will be read
    run.needed.clear()
    judger.pending.clear()
    run.update(leaving, other)
    assert {one.replica for one in run.events if isinstance(one, ReplicaRetired)} == {"thinker 0", "judger 0"}
    assert [replica.nodes for replica in run.manager.replicas] == [("far",), ("far",)]


def test_a_retiring_replica_that_dies_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Followed(monkeypatch, {"judger": 2})
    run.update(free("far", 1.0))
    (first, _) = run.manager.replicas_of()["judger"]
    run.manager.retire(ReplicaId(("judger",), 0))
    first.mark_dead("it died")
    run.manager.replace(first)
    assert [str(name) for name in run.manager.by_id] == ["thinker 0", "judger 1"]


def test_the_autoscaler_is_asked_while_replicas_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for the same number; what was asked for is taken back at the end."""
    asked: list[tuple[int, float]] = []
    monkeypatch.setattr(follow, "ask_autoscaler", lambda count, share: asked.append((count, share.num_cpus)))
    run = Followed(monkeypatch, {"judger": 3})
    for _ in range(2):
        run.update(free("near", 0.0))
    run.follower.close()
    for call in run.watch.calls:
        call()
    assert asked == [(4, 1.0), (0, 1.0)]
    run = Followed(monkeypatch, {"judger": None})
    run.update(free("near", 0.0))
    run.follower.close()
    assert run.watch.calls == []


def test_a_run_starts_with_what_fits_without_sharing_further() -> None:
    def request(num_gpus: float) -> PlanRequest:
        nodes = (NodeResources(name="a", num_gpus=num_gpus, num_cpus=8.0),)
        return PlanRequest(agents=("thinker", "judger"), replicas={"thinker": 1, "judger": 6}, nodes=nodes)

    counts = [
        len([one for one in first_plan(request(gpus), {"judger": 1}).slots if one.agents == ("judger",)])
        for gpus in (2, 4, 8)
    ]
    assert counts == [1, 3, 6]
    assert len(first_plan(request(2), {}).slots) == 7


def test_a_run_that_may_start_with_fewer_waits_for_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that load later take turns once they have loaded."""
    run = Followed(monkeypatch, {})
    thinker, judger = run.manager.replicas
    late = FakeReplica([None], ["far"])
    references: dict[Replica, list[Any]] = {thinker: ["near"], judger: ["near"], late: ["far"]}
    members = {"thinker": [thinker], "judger": [judger, late]}
    monkeypatch.setattr("ray.wait", lambda refs, **_: ([one for one in refs if one == "near"], []))
    assert replicas_to_start_with(references, members, {"judger": 1}) == [thinker, judger]
    assert replicas_to_start_with(references, members, {"judger": 2}) == list(references)
    assert replicas_to_start_with(references, members, {}) == list(references)
    told = describe_first({"thinker": 1, "judger": 2}, members)
    assert told.startswith("the run starts with 1 of 2 of judger; the other replicas follow")
    assert describe_first({"judger": 1}, members) == ""


def test_a_replica_starts_in_the_place_of_one_of_an_idle_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Followed(monkeypatch, {}, replicas={"thinker": 2, "judger": 1}, rebalances=True)
    (judger,) = run.manager.replicas_of()["judger"]
    judger.pending.update({Turn(number, 0.0, (), {}): None for number in range(3)})
    full = free("near", 0.0)
    for _ in range(follow._LOOKS_TO_SHIFT - 1):
        run.update(full)
    assert len(run.nodes_of("thinker")) == 2
    for _ in range(3):
        run.update(full)
    assert (run.nodes_of("thinker"), run.nodes_of("judger")) == (["near"], ["near", "near"])
    for _ in range(2 * follow._LOOKS_TO_SHIFT):
        run.update(full)
    assert {str(name) for name in run.manager.by_id} == {"thinker 0", "judger 0", "judger 1"}
    assert run.needed == set()
    assert len(judger.pending) == 3


def test_a_model_that_does_not_load_on_a_new_node_does_not_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Followed(monkeypatch, {"judger": 2})

    def refuse(*_: Any, **__: Any) -> Any:
        raise ModelError("model", "m", "there is no such folder")

    monkeypatch.setattr("latentmas_ray.actors.manager.get_loaded", refuse)
    run.update(free("far", 1.0))
    assert run.nodes_of("judger") == ["near"]
    run.update(free("far", 1.0))
    assert run.nodes_of("judger") == ["near"]  # nor is it tried again


def test_ray_tells_which_nodes_leave_and_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """The names that this relies on are those of the installed Ray."""
    from ray.autoscaler.v2.schema import ClusterStatus, NodeInfo, NodeUsage, ResourceUsage
    from ray.core.generated.autoscaler_pb2 import NodeStatus

    assert NodeStatus.Value("DRAINING")
    usage = NodeUsage(usage=[ResourceUsage("CPU", 4.0, 1.0)], idle_time_ms=0)
    told = [
        NodeInfo("", "", "", "", node_status=NodeStatus.Name(status), node_id=name, resource_usage=usage)
        for name, status in (("a", NodeStatus.DRAINING), ("b", NodeStatus.RUNNING))
    ]
    monkeypatch.setattr("ray.autoscaler.v2.sdk.get_cluster_status", lambda *_, **__: ClusterStatus(active_nodes=told))
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    monkeypatch.setattr("ray.get_runtime_context", lambda: type("Context", (), {"gcs_address": "there"}))
    found = nodes_module.read_nodes()
    assert [(node.name, node.is_draining, node.free_cpus, node.num_cpus) for node in found.values()] == [
        ("a", True, 3.0, 4.0),
        ("b", False, 3.0, 4.0),
    ]


def test_a_look_starts_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray starts one where a process without a cluster asks for its context."""
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.get_runtime_context", lambda: pytest.fail("it was asked"))
    with pytest.raises(ClusterError, match="has left its cluster"):
        nodes_module.read_nodes()


def test_a_cluster_that_does_not_answer_is_looked_at_again() -> None:
    answers: list[Any] = [ClusterError("no answer"), {"a": free("a", 1.0)}]
    now = [0.0]

    def read() -> Mapping[str, NodeSupply]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]

    watch = SupplyWatch(read, clock=lambda: now[0])
    found = []
    while not found:
        now[0] += 5.0
        if (nodes := watch.take()) is not None:
            found.append(nodes)
    watch.close()
    assert found == [{"a": free("a", 1.0)}]
    assert not answers


@pytest.mark.parametrize("keeps_layout", [False, True])
def test_replicas_move_to_a_node_that_joins_unless_their_layout_was_chosen(
    monkeypatch: pytest.MonkeyPatch, keeps_layout: bool
) -> None:
    run = Followed(monkeypatch, {}, replicas={"thinker": 2, "judger": 2}, keeps_layout=keeps_layout)
    for _ in range(3):
        run.update(free("near", 0.0), free("far", 2.0))
    nodes = {*run.nodes_of("thinker"), *run.nodes_of("judger")}
    assert nodes == ({"near"} if keeps_layout else {"near", "far"})
