"""What a run does when a node is gone or silent: without Ray, actors or a network."""

from collections.abc import Callable
from typing import Any

import pytest

from latentmas_ray.actors import ray_runtime
from latentmas_ray.actors.health import monitor
from latentmas_ray.actors.health.node_line import LineReading, LineState
from latentmas_ray.actors.health.node_watch import SILENT_SECONDS
from latentmas_ray.actors.ray_runtime import RayRuntime
from latentmas_ray.actors.replicas import ready
from latentmas_ray.actors.replicas.replica import ReplicaState
from latentmas_ray.engine.turn import Sampling, TurnRequest
from latentmas_ray.runs.run_events import NodeJoined, NodeLost, ReplicaLost
from latentmas_ray.scheduler.protocol import Event, TurnHandle, TurnLost
from tests.cases.manager import NODES, FakeManager, FakeReferences, FakeReplica, cluster_of, fake_cluster
from tests.cases.node_lines import OPEN, Network
from tests.cases.runtime import runtime_of

AGENTS = ("planner", "judger")
GONE = LineReading(LineState.REFUSED)
SILENT = LineReading(LineState.OPEN, SILENT_SECONDS, num_unanswered=6)


@pytest.fixture
def network() -> Network:
    return Network(local=frozenset({"near"}))


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, network: Network) -> Callable[..., RayRuntime]:
    """A runtime of two agents on two nodes, whose lines are the network's; the driver is on the one that is `near`."""
    fake_cluster(monkeypatch)
    monkeypatch.setattr(ray_runtime, "ReplicaManager", FakeManager)
    monkeypatch.setattr(ready, "ReadyReferences", FakeReferences)
    monkeypatch.setattr(ray_runtime, "connect_as_configured", lambda *_, **more: cluster_of(NODES))
    monkeypatch.setattr(monitor, "NodeWatch", network.watch)
    monkeypatch.setattr(monitor, "LOOK_SECONDS", 0.0)

    def start(num_polls: int = 2, **more: Any) -> RayRuntime:
        make_runner: Any = None
        runtime = runtime_of(AGENTS, make_runner, uses_gpus=False, **more)
        runtime.start()
        for _ in range(num_polls):
            runtime.poll(0.0)
        return runtime

    return start


def submit(runtime: RayRuntime, agent: str, batch: int, thinks: Any = "text") -> TurnHandle:
    work = TurnRequest(
        agent=agent, batch=batch, question_ids=("q",), prompts=(), thinks=thinks, sampling=Sampling(), is_last=False
    )
    return runtime.submit(work, {})


def nodes_of(runtime: RayRuntime, state: ReplicaState = ReplicaState.READY) -> set[str]:
    return {node for replica in runtime._manager.replicas if replica.state is state for node in replica.nodes}


def poll_until_lost(runtime: RayRuntime) -> list[Event]:
    """The events up to the loss of a node: within the two refusals that it takes."""
    events: list[Event] = []
    for _ in range(2):
        events += runtime.poll(0.0)
    return events


def without_results(monkeypatch: pytest.MonkeyPatch) -> None:
    """No turn ends, and no ping is answered."""
    monkeypatch.setattr(monitor.ray, "wait", lambda references, **_: ([], list(references)))


@pytest.mark.parametrize("reading", [GONE, SILENT])
def test_other_replicas_do_the_work_of_a_lost_node(
    reading: LineReading, start: Callable[..., RayRuntime], network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = start(replicas=2)
    without_results(monkeypatch)
    turns = [submit(runtime, "planner", batch) for batch in range(2)]
    (lost,) = [turn for turn in turns if turn.turn.replica.nodes == ("far",)]
    network.readings["far"] = reading
    events = poll_until_lost(runtime)
    assert [event.node for event in events if isinstance(event, NodeLost)] == ["far"]
    (turn,) = [event for event in events if isinstance(event, TurnLost)]
    assert turn.handle is lost
    assert not turn.is_suspect  # its node was lost
    assert {event.agents for event in events if isinstance(event, ReplicaLost)} == {("planner",), ("judger",)}
    assert nodes_of(runtime) == {"near"}
    assert submit(runtime, "planner", 1).turn.replica.nodes == ("near",)


def test_a_turn_is_the_suspect_of_each_actor_that_it_kills_however_fast_they_start(
    start: Callable[..., RayRuntime],
) -> None:
    """Actors that were there when another one died may die of the same fault; those started since do not."""
    runtime = start()
    neighbour = submit(runtime, "planner", 0)
    for _ in range(3):
        turn = submit(runtime, "judger", 0)
        turn.turn.replica.is_dead = True
        (lost,) = [event for event in runtime.poll(0.0) if isinstance(event, TurnLost)]
        assert lost.handle is turn
        assert lost.is_suspect
    runtime._health.mark_dead(neighbour.turn.replica, "planner", "it died")
    assert neighbour.turn.replica.suspect is None


def test_readers_do_without_what_a_lost_node_has(
    start: Callable[..., RayRuntime], network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in the object store, whose bytes survive their producer, and of turns that were finished."""
    runtime = start(replicas=2)
    finished = [submit(runtime, "planner", batch, "latent") for batch in range(2)]
    runtime.poll(0.0)
    without_results(monkeypatch)
    running = [submit(runtime, "planner", batch, "latent") for batch in range(2)]
    far = {turn for turn in (*finished, *running) if turn.turn.replica.nodes == ("far",)}
    network.readings["far"] = SILENT
    events = runtime.poll(0.0)
    assert {event.handle for event in events if isinstance(event, TurnLost)} == far
    assert len(far) == 2
    near = [one for one in runtime._manager.replicas if isinstance(one, FakeReplica) and one.nodes == ("near",)]
    assert near
    for replica in near:
        assert set(replica.ended) == {"far"}
        assert set(replica.given_up) == {turn.segment.segment_id for turn in far}


def test_a_silent_node_is_waited_for_if_no_other_can_do_its_work(
    start: Callable[..., RayRuntime], network: Network, caplog: pytest.LogCaptureFixture
) -> None:
    """The link may come back, and the models there need not be loaded again. The run says so."""
    runtime = start(placement="spread")
    network.readings["far"] = SILENT
    events = runtime.poll(0.0)
    assert [type(event) for event in events] == [NodeLost]
    assert nodes_of(runtime) == {"near", "far"}
    agents = [agent for agent, members in runtime._manager.replicas_of().items() if members[0].nodes == ("far",)]
    assert f"{', '.join(agents)}: all actors are on that node; the run waits" in caplog.text
    network.readings["far"] = OPEN
    assert runtime.poll(0.0) == [NodeJoined("far")]


def test_a_node_that_falls_silent_while_models_are_loaded_is_noticed(
    start: Callable[..., RayRuntime], network: Network
) -> None:
    """It was reached before: a line that is first opened afterwards would say nothing of it."""
    runtime = start(num_polls=0, placement="spread")
    assert network.num_opened == len(NODES)
    network.readings["far"] = SILENT
    assert NodeLost in map(type, runtime.poll(0.0))


def test_a_node_that_has_ended_is_not_used_although_ray_still_lists_it(
    start: Callable[..., RayRuntime], network: Network
) -> None:
    runtime = start(placement="spread")
    network.readings["far"] = GONE
    poll_until_lost(runtime)
    runtime.poll(0.0)
    assert nodes_of(runtime) == {"near"}
    assert {submit(runtime, agent, 0).turn.replica.nodes for agent in AGENTS} == {("near",)}


def test_a_node_that_answers_again_gets_its_replicas_back(
    start: Callable[..., RayRuntime], network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = start(replicas=2)
    network.readings["far"] = SILENT
    runtime.poll(0.0)
    network.readings["far"] = OPEN
    monkeypatch.setattr(monitor, "CHECK_SECONDS", 0.0)
    events = runtime.poll(0.0)
    assert NodeJoined("far") in events
    assert nodes_of(runtime) == {"near", "far"}


def test_a_node_that_falls_silent_before_the_driver_looks_again_does_not_end_the_run(
    start: Callable[..., RayRuntime], network: Network
) -> None:
    network.readings["far"] = LineReading(LineState.OPENING)
    runtime = start(replicas=2)
    network.readings["far"] = SILENT
    events = runtime.poll(0.0)
    assert [event.node for event in events if isinstance(event, NodeLost)] == ["far"]
    assert {event.nodes for event in events if isinstance(event, ReplicaLost)} == {("far",)}


def test_readers_do_without_what_an_earlier_actor_of_a_silent_node_has_left_there(
    start: Callable[..., RayRuntime], network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bytes in the object store have survived it, and not the node's silence."""
    runtime = start(replicas=2)
    finished = [submit(runtime, "planner", batch, "latent") for batch in range(2)]
    runtime.poll(0.0)
    (left,) = [turn for turn in finished if turn.turn.replica.nodes == ("far",)]
    monkeypatch.setattr(monitor, "CHECK_SECONDS", 0.0)
    runtime._health.mark_dead(left.turn.replica, "planner", "it died")
    events = runtime.poll(0.0)  # its place is taken again
    assert nodes_of(runtime) == {"near", "far"}
    assert not [event for event in events if isinstance(event, TurnLost)]
    network.readings["far"] = SILENT
    assert [event.handle for event in runtime.poll(0.0) if isinstance(event, TurnLost)] == [left]
