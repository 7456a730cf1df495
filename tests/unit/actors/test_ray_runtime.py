"""What a poll reports, how often actors may die: the runtime without Ray, and without actors."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import ray
from ray.exceptions import RaySystemError

from latentmas_ray.actors import manager, ray_runtime
from latentmas_ray.actors.health import monitor as health
from latentmas_ray.actors.ray_runtime import RayRuntime
from latentmas_ray.actors.replicas import measure_costs, ready
from latentmas_ray.actors.replicas.replica import ReplicaState
from latentmas_ray.engine.turn import Sampling, TurnRequest
from latentmas_ray.errors import ActorError, ClusterError, LostActorError
from latentmas_ray.runs.run_events import NodeJoined, ReplicaLost, ReplicaReady
from latentmas_ray.scheduler.protocol import QuestionDone, TokensWritten, TurnDone, TurnFailed, TurnHandle, TurnLost
from latentmas_ray.writing.written_turn import CANCELLED
from tests.cases.manager import NODES, FakeManager, FakeReferences, FakeReplica, cluster_of, fake_cluster
from tests.cases.runtime import runtime_of

AGENTS = ("planner", "judger")


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Callable[..., RayRuntime]:
    """A runtime of two agents whose actors are up."""
    monkeypatch.setattr(ray_runtime, "ReplicaManager", FakeManager)
    monkeypatch.setattr(ready, "ReadyReferences", FakeReferences)
    monkeypatch.setattr(ray_runtime, "connect_as_configured", lambda *_, **more: cluster_of(NODES))

    def start(**more: Any) -> RayRuntime:
        make_runner: Any = None
        runtime = runtime_of(AGENTS, make_runner, uses_gpus=False, **more)
        runtime.start()
        return runtime

    return start


def submit(runtime: RayRuntime, agent: str, *, thinks: Any = "text", is_last: bool = False) -> TurnHandle:
    work = TurnRequest(
        agent=agent,
        batch=0,
        question_ids=("q", "r"),
        prompts=(),
        thinks=thinks,
        sampling=Sampling(),
        is_last=is_last,
    )
    return runtime.submit(work, {})


def outcomes(runtime: RayRuntime) -> dict[TurnHandle, TurnDone | TurnFailed | TurnLost]:
    """What became of turns, as the next poll tells it."""
    events = runtime.poll(0.0)
    return {event.handle: event for event in events if isinstance(event, TurnDone | TurnFailed | TurnLost)}


def die_of(runtime: RayRuntime, handle: TurnHandle) -> dict[TurnHandle, TurnDone | TurnFailed | TurnLost]:
    """The actor of this turn dies, and the driver hears of it."""
    handle.turn.replica.is_dead = True
    events = outcomes(runtime)
    event = events[handle]
    assert isinstance(event, TurnLost)
    assert "died" in event.reason
    return events


def test_every_replica_of_an_agent_may_die_so_often(
    start: Callable[..., RayRuntime], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node may take many replicas of one agent along."""
    fake_cluster(monkeypatch)
    monkeypatch.setattr(health, "MAX_LOSSES", 1)
    runtime = start(replicas=2)
    die_of(runtime, submit(runtime, "planner"))
    die_of(runtime, submit(runtime, "planner"))
    handle = submit(runtime, "planner")
    handle.turn.replica.is_dead = True
    event = outcomes(runtime)[handle]
    assert isinstance(event, TurnFailed)
    assert isinstance(event.error, ActorError)
    assert "died 3 times" in str(event.error)
    assert event.error.__traceback__ is None
    with pytest.raises(ActorError, match="was not replaced: it died"):  # and not a turn that is lost again and again
        submit(runtime, "planner")


def test_actors_are_placed_anew_although_another_dies_meanwhile(
    start: Callable[..., RayRuntime], monkeypatch: pytest.MonkeyPatch
) -> None:
    alive = fake_cluster(monkeypatch, [ActorError("it died while it loaded its model")])
    runtime = start(placement="spread")
    lost = next(handle for handle in (submit(runtime, "planner"), submit(runtime, "judger")) if far(handle))
    alive.remove("far")
    die_of(runtime, lost)
    monkeypatch.setattr(health, "CHECK_SECONDS", 0.0)
    events = runtime.poll(0.0)
    assert {event.nodes for event in events if isinstance(event, ReplicaReady)} == {("near",)}
    assert not far(submit(runtime, "planner"))
    assert not far(submit(runtime, "judger"))


def test_what_happened_before_the_end_is_reported_before_it(
    start: Callable[..., RayRuntime], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The losses that end a run are what a reader of its records looks for."""
    failures = [ActorError("it died while it loaded its model")] * ray_runtime.MAX_STARTS
    alive = fake_cluster(monkeypatch, failures)
    runtime = start(placement="spread")
    lost = next(handle for handle in (submit(runtime, "planner"), submit(runtime, "judger")) if far(handle))
    alive.remove("far")
    die_of(runtime, lost)
    monkeypatch.setattr(health, "CHECK_SECONDS", 0.0)
    losses = [event for event in runtime.poll(0.0) if isinstance(event, ReplicaLost)]
    assert {agent for event in losses for agent in event.agents} == set(AGENTS)
    with pytest.raises(ActorError, match="while it loaded its model"):
        submit(runtime, "planner")
    with pytest.raises(ActorError, match="while it loaded its model") as caught:
        runtime.poll(0.0)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("node_is_lost", [True, False], ids=["with its node", "alone"])
def test_actors_are_started_once_more_if_one_dies_before_all_are_up(
    start: Callable[..., RayRuntime], monkeypatch: pytest.MonkeyPatch, node_is_lost: bool
) -> None:
    alive = fake_cluster(monkeypatch)
    load, failures = manager.get_loaded, [LostActorError("it died while it loaded its model")]

    def die_once(*args: Any, **more: Any) -> Any:
        if not failures:
            return load(*args, **more)
        if node_is_lost:
            alive.remove("far")
        raise failures.pop()

    monkeypatch.setattr(manager, "get_loaded", die_once)
    runtime = start(placement="spread")
    nodes = {submit(runtime, agent).turn.replica.nodes for agent in AGENTS}
    assert nodes == ({("near",)} if node_is_lost else {("near",), ("far",)})


@pytest.mark.parametrize(
    ("error", "num_starts"),
    [(LostActorError("it died"), ray_runtime.MAX_STARTS), (ActorError("its machine ran out of memory"), 1)],
    ids=["dies each time", "does not fit"],
)
def test_a_start_that_cannot_work_ends(
    start: Callable[..., RayRuntime], monkeypatch: pytest.MonkeyPatch, error: ActorError, num_starts: int
) -> None:
    fake_cluster(monkeypatch)
    started = []

    def die(*_: Any, **__: Any) -> Any:
        started.append(1)
        raise error

    monkeypatch.setattr(manager, "get_loaded", die)
    with pytest.raises(ActorError, match=str(error)):
        start()
    assert len(started) == num_starts


def test_a_run_starts_although_an_actor_dies_while_costs_are_measured(
    start: Callable[..., RayRuntime], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run finds out, and the actor is replaced as any other."""
    fake_cluster(monkeypatch)
    submitted = []

    def lose(*_: Any) -> Any:
        submitted.append(1)
        raise ClusterError("transfer costs could not be measured: the actor died")

    monkeypatch.setattr(measure_costs, "measure_costs", lose)
    assert submit(start(measures_costs=True), "planner")
    assert submitted


def far(handle: TurnHandle) -> bool:
    return bool(handle.turn.replica.nodes == ("far",))


def test_every_outcome_is_reported_once_with_its_tokens_and_questions(
    start: Callable[..., RayRuntime], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_cluster(monkeypatch)
    runtime = start()
    ready = runtime.poll(0.0)
    assert {agent for event in ready if isinstance(event, ReplicaReady) for agent in event.agents} == set(AGENTS)
    handle = submit(runtime, "judger", is_last=True)
    events = runtime.poll(0.0)
    assert [type(event) for event in events] == [TokensWritten, TokensWritten, TurnDone, QuestionDone, QuestionDone]
    assert [event.num_tokens for event in events if isinstance(event, TokensWritten)] == [1, 2]
    assert [event.question_id for event in events if isinstance(event, QuestionDone)] == ["q", "r"]
    assert all(getattr(event, "handle", None) is handle for event in events)
    assert runtime.poll(0.0) == []


def test_questions_that_are_cancelled_are_not_reported(
    start: Callable[..., RayRuntime], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A turn continues while one of its questions is wanted."""
    fake_cluster(monkeypatch)
    runtime = start()
    runtime.poll(0.0)
    half, none = submit(runtime, "judger", is_last=True), submit(runtime, "planner")
    runtime.cancel([half], {"q"})
    runtime.cancel([none], {"q"})
    runtime.cancel([none], {"r"})
    result = FakeReplica.result
    failed = {"q": CANCELLED, "r": "no"}
    monkeypatch.setattr(FakeReplica, "result", lambda *_, **more: replace(result(*_, **more), failed=failed))
    events = runtime.poll(0.0)
    assert [event.result.failed for event in events if isinstance(event, TurnDone)] == [{"r": "no"}]
    assert [type(event) for event in events] == [TokensWritten, TurnDone, QuestionDone]
    assert all(getattr(event, "handle", None) is half for event in events)
    assert none.turn.replica.pending == {}


def test_nothing_is_replaced_or_checked_but_in_a_poll(
    start: Callable[..., RayRuntime], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_cluster(monkeypatch)
    runtime = start()
    handle = submit(runtime, "planner")
    handle.turn.replica.is_dead = True
    submit(runtime, "judger")
    runtime.free_segments([handle])
    assert handle.turn.replica.state is ReplicaState.READY
    lost = runtime.poll(0.0)
    (event,) = [event for event in lost if isinstance(event, ReplicaLost)]
    assert event == ReplicaLost(("planner",), handle.turn.replica.nodes, "it died", "planner 0")
    assert handle.turn.replica.state is ReplicaState.LOST
    assert submit(runtime, "planner").turn.replica.state is ReplicaState.REPLACING
    monkeypatch.setattr(health, "CHECK_SECONDS", 0.0)
    assert any(isinstance(event, ReplicaReady) for event in runtime.poll(0.0))
    assert submit(runtime, "planner").turn.replica.state is ReplicaState.READY


def test_a_turn_that_ended_while_nobody_polled_does_not_hang(
    start: Callable[..., RayRuntime], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_cluster(monkeypatch)
    monkeypatch.setattr(health, "CHECK_SECONDS", 0.0)
    runtime = start(turn_seconds=1e-9)
    waits = ray.wait
    monkeypatch.setattr(ray, "wait", lambda references, **_: ([], list(references)))
    handle = submit(runtime, "planner")
    assert not outcomes(runtime)  # it is seen to run
    monkeypatch.setattr(ray, "wait", waits)
    assert isinstance(outcomes(runtime)[handle], TurnDone)
    assert handle.turn.replica.state is ReplicaState.READY


def test_a_new_node_is_reported(start: Callable[..., RayRuntime], monkeypatch: pytest.MonkeyPatch) -> None:
    names = fake_cluster(monkeypatch)
    monkeypatch.setattr(health, "CHECK_SECONDS", 0.0)
    runtime = start()
    assert not any(isinstance(event, NodeJoined) for event in runtime.poll(0.0))
    names.append("new")
    assert runtime.poll(0.0) == [NodeJoined("new")]
    assert runtime.poll(0.0) == []


def test_a_segment_that_goes_with_its_actor_is_reported_unless_it_is_freed(
    start: Callable[..., RayRuntime], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_cluster(monkeypatch)
    runtime = start(placement="pack")
    kept, freed, elsewhere = (submit(runtime, "planner", thinks="latent") for _ in range(3))
    assert {type(event) for event in outcomes(runtime).values()} == {TurnDone}
    for handle in (kept, freed):
        handle.segment.holders.append((handle.turn.replica, ()))  # as with shared memory
    monkeypatch.setattr(type(freed.segment), "release", lambda self: None)
    runtime.free_segments([freed])
    events = die_of(runtime, dead := submit(runtime, "planner"))
    assert set(events) == {dead, kept}
    assert isinstance(events[kept], TurnLost)
    assert elsewhere not in events  # its bytes are in the object store


def test_actors_that_a_node_takes_along_are_found_and_their_turns_are_not_suspected(
    start: Callable[..., RayRuntime], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch has a turn at each of them: so one fault would count several times against its questions."""
    fake_cluster(monkeypatch)
    runtime = start(placement="pack")
    first, second = submit(runtime, "planner"), submit(runtime, "judger")
    for handle in (first, second):
        handle.turn.replica.is_dead = True
    events = die_of(runtime, first) | outcomes(runtime)
    assert [events[handle].is_suspect for handle in (first, second)] == [True, False]  # type: ignore[union-attr]


def test_a_turn_whose_actor_is_silent_is_lost_once_that_is_known(
    start: Callable[..., RayRuntime], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing would ever come of it."""
    fake_cluster(monkeypatch)
    runtime = start(placement="pack")
    first, second = submit(runtime, "planner"), submit(runtime, "judger")
    for handle in (first, second):
        handle.turn.replica.is_dead = True
    silent = second.turn.turn.results[0]

    def wait(references: Any, **_: Any) -> tuple[list[Any], list[Any]]:
        ready = [reference for reference in references if reference != silent]
        return ready, [reference for reference in references if reference == silent]

    monkeypatch.setattr(ray, "wait", wait)
    assert set(die_of(runtime, first)) == {first}
    assert set(outcomes(runtime)) == {second}  # its actor was called, and has not answered


def test_an_actor_that_dies_alone_leaves_the_others_of_its_node(
    start: Callable[..., RayRuntime], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_cluster(monkeypatch)
    runtime = start(placement="pack")
    first = submit(runtime, "planner")
    die_of(runtime, first)
    second = submit(runtime, "judger")
    assert isinstance(outcomes(runtime)[second], TurnDone)


def test_a_cluster_that_fails_while_actors_are_pinged_raises_its_own_error(
    start: Callable[..., RayRuntime], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_cluster(monkeypatch)
    runtime = start(placement="pack")
    die_of(runtime, submit(runtime, "planner"))

    def fail(*_: Any, **__: Any) -> None:
        raise RaySystemError("no answer")

    monkeypatch.setattr(ray, "wait", fail)
    with pytest.raises(ClusterError, match="does not answer"):
        runtime.poll(0.0)
