"""Guards and traces on actors: what one process does and sees, they do and see."""

from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

import pytest

from latentmas_ray.actors import LocalRuntime, RayRuntime
from latentmas_ray.engine.load import load_runner
from latentmas_ray.engine.turn import Sampling
from latentmas_ray.runs.results import Answer
from latentmas_ray.runs.traces import Trace
from latentmas_ray.scheduler.protocol import Runtime, RuntimeInfo
from latentmas_ray.tasks import questions_from
from latentmas_ray.topology import apply_method
from latentmas_ray.transport import Loopback
from tests.cases.scheduler import agent, topology
from tests.numerics.broken_model import save_broken_model
from tests.ray.actor_cases import actors_of, drive, use_transport

pytestmark = pytest.mark.usefixtures("cluster")
TOPOLOGY = topology(
    agent("planner", prompt="plan {{ question }} {{ context }}"),
    agent("judger", "planner", thinks="text", prompt="judge {{ question }} {{ context }}"),
)
QUESTIONS = questions_from(["What is 1 + 1?", "Which is longer?", "Why?"])
SETTINGS: dict[str, Any] = {
    "latent_steps": 3, "sampling": Sampling(max_new_tokens=6, temperature=0.8), "batch_size": 2,
}  # fmt: skip
Started = tuple[Runtime, RuntimeInfo]


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_broken_model(tmp_path_factory.mktemp("broken"))


def loader(model: str) -> partial[Any]:
    return partial(load_runner, model, dtype="float32", device="cpu", thoughts="realign")


@pytest.fixture(scope="module")
def started(broken: str) -> Iterator[tuple[RayRuntime, RuntimeInfo]]:
    with actors_of(TOPOLOGY, loader(broken)) as started:
        yield started


@pytest.fixture(scope="module", params=["shared_memory", "tcp", "object_store"])
def on_ray(request: pytest.FixtureRequest, started: tuple[RayRuntime, RuntimeInfo]) -> Started:
    use_transport(started[0], request.param)
    return started


@pytest.fixture(scope="module")
def local(broken: str) -> Started:
    runtime = LocalRuntime(loader(broken), Loopback())
    return runtime, runtime.start()


def answers(started: Started, agents: Any = TOPOLOGY, **settings: Any) -> dict[str, Answer]:
    results = drive(*started, agents, QUESTIONS, **{**SETTINGS, **settings})
    return {name: result for name, result in results.items() if isinstance(result, Answer)}


def tokens(found: dict[str, Answer]) -> dict[str, tuple[int, ...]]:
    return {name: answer.answer_token_ids for name, answer in found.items()}


@pytest.mark.parametrize("guard", ["drop", "text"])
def test_a_guard_does_on_actors_what_it_does_in_one_process(on_ray: Started, local: Started, guard: Any) -> None:
    guarded = answers(on_ray, guard=guard)
    assert tokens(guarded) == tokens(answers(local, guard=guard)) != tokens(answers(on_ray))
    for answer in guarded.values():
        assert [alarm.kind for alarm in answer.agents["planner"].alarms] == ["not-finite"]
    if guard == "text":
        assert tokens(guarded) == tokens(answers(local, apply_method(TOPOLOGY, "text")))


def test_traces_come_from_actors_too(on_ray: Started, local: Started) -> None:
    traced = frozenset(["q0", "q2"])
    there, here = (answers(one, guard="drop", traced=traced) for one in (on_ray, local))
    assert tokens(there) == tokens(answers(on_ray, guard="drop"))
    for name, answer in there.items():
        assert (answer.trace is not None) == (name in traced)
        if answer.trace is not None:
            assert _exact(answer.trace) == _exact(here[name].trace)
            assert answer.trace.embeddings is not None


def _exact(trace: Trace | None) -> Any:
    """A trace without what rounding may change."""
    assert trace is not None
    agents = {name: asdict(agent) for name, agent in trace.agents.items()}
    return {name: {**agent, "effects": set(agent["effects"])} for name, agent in agents.items()}
