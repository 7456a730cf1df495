"""How often actors may die, and what is told twice: the runtime without Ray, and without actors."""

from collections.abc import Callable
from typing import Any

import pytest
import ray
from ray.exceptions import RaySystemError

from latentmas_ray.actors import health as upkeep
from latentmas_ray.actors import ray_runtime
from latentmas_ray.actors.ray_runtime import RayRuntime
from latentmas_ray.engine.turn import Sampling, TurnRequest
from latentmas_ray.errors import ActorError, ClusterError, TurnLostError
from latentmas_ray.scheduler.protocol import TurnHandle
from latentmas_ray.transport import ObjectStore
from tests.cases.manager import NODES, StandingFleet, pretend, seen


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Callable[..., RayRuntime]:
    """A runtime of two agents whose actors are up."""
    monkeypatch.setattr(ray_runtime, "ReplicaManager", StandingFleet)
    monkeypatch.setattr(ray_runtime, "connect_as_configured", lambda *_, **more: seen(NODES))

    def start(**more: Any) -> RayRuntime:
        make_runner: Any = None
        runtime = RayRuntime(["planner", "judger"], make_runner, ObjectStore(), uses_gpus=False, **more)
        runtime.start()
        return runtime

    return start


def submit(runtime: RayRuntime, agent: str) -> TurnHandle:
    work = TurnRequest(agent=agent, batch=0, question_ids=("q",), prompts=(), thinks="text", sampling=Sampling())
    return runtime.submit(work, {})


def die_of(runtime: RayRuntime, ticket: TurnHandle) -> None:
    """The actor of this turn dies, and the driver hears of it."""
    ticket.report.replica.is_dead = True
    with pytest.raises(TurnLostError, match="died"):
        runtime.report(ticket)


def test_every_replica_of_an_agent_may_die_so_often(
    start: Callable[..., RayRuntime], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node may take many replicas of one agent along."""
    pretend(monkeypatch)
    monkeypatch.setattr(upkeep, "MAX_LOSSES", 1)
    runtime = start(replicas=2)
    die_of(runtime, submit(runtime, "planner"))
    die_of(runtime, submit(runtime, "planner"))
    ticket = submit(runtime, "planner")
    ticket.report.replica.is_dead = True
    with pytest.raises(ActorError, match="died 3 times"):
        runtime.report(ticket)
    with pytest.raises(ActorError, match="was not replaced: it died"):  # and not a turn that is lost again and again
        submit(runtime, "planner")


def test_actors_are_placed_anew_although_another_dies_meanwhile(
    start: Callable[..., RayRuntime], monkeypatch: pytest.MonkeyPatch
) -> None:
    alive = pretend(monkeypatch, [ActorError("it died while it loaded its model")])
    runtime = start(placement="spread")
    lost = next(ticket for ticket in (submit(runtime, "planner"), submit(runtime, "judger")) if far(ticket))
    alive.remove("far")
    die_of(runtime, lost)
    runtime.wait([lost], 0.0)
    assert not far(submit(runtime, "planner"))
    assert not far(submit(runtime, "judger"))


def far(ticket: TurnHandle) -> bool:
    return bool(ticket.report.replica.nodes == ("far",))


def test_a_report_that_is_asked_for_twice_is_the_same(
    start: Callable[..., RayRuntime], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second time no transfer would have moved anything."""
    pretend(monkeypatch)
    runtime = start()
    ticket = submit(runtime, "planner")
    assert runtime.report(ticket) is runtime.report(ticket)


def test_actors_that_a_node_takes_along_are_found_and_their_turns_are_not_suspected(
    start: Callable[..., RayRuntime], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch has a turn at each of them: so one fault would count several times against its questions."""
    pretend(monkeypatch)
    runtime = start(placement="pack")
    first, second = submit(runtime, "planner"), submit(runtime, "judger")
    for ticket in (first, second):
        ticket.report.replica.is_dead = True
    with pytest.raises(TurnLostError) as caught:
        runtime.report(first)
    assert caught.value.is_suspect
    assert runtime.wait([second], 0.0) == [second]  # nobody has reported that one
    with pytest.raises(TurnLostError) as caught:
        runtime.report(second)
    assert not caught.value.is_suspect


def test_an_actor_that_dies_alone_leaves_the_others_of_its_node(
    start: Callable[..., RayRuntime], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch)
    runtime = start(placement="pack")
    first, second = submit(runtime, "planner"), submit(runtime, "judger")
    die_of(runtime, first)
    runtime.wait([second], 0.0)
    runtime.report(second)


def test_a_cluster_that_fails_while_actors_are_called_is_told_as_such(
    start: Callable[..., RayRuntime], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch)
    runtime = start(placement="pack")
    first, second = submit(runtime, "planner"), submit(runtime, "judger")
    die_of(runtime, first)

    def fail(*_: Any, **__: Any) -> None:
        raise RaySystemError("no answer")

    monkeypatch.setattr(ray, "wait", fail)
    with pytest.raises(ClusterError, match="does not answer"):
        runtime.wait([second], 0.0)
