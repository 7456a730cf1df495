"""What can be asked of a `LatentMAS` from Python, on actors; inside a Ray actor and inside a program that uses Ray."""

from pathlib import Path
from typing import Any

import pytest
import ray

from latentmas_ray import LatentMAS, Memory
from latentmas_ray.actors import cluster as joining
from latentmas_ray.errors import ConfigError
from tests.callers import ALL_ARE_ASKED, FAST, NUM_CALLERS, PAIR, ask_in_tasks, ask_in_threads, ask_in_turn
from tests.callers import QUESTIONS as ALL_QUESTIONS

QUESTIONS = ALL_QUESTIONS if ALL_ARE_ASKED else ALL_QUESTIONS[: 2 * NUM_CALLERS]
ON_RAY: dict[str, Any] = {**FAST, "runtime": "ray"}
MEMORY_RUN: dict[str, Any] = {"latent_steps": 2, "max_new_tokens": 12, "dtype": "float32", "device": "cpu"}


@pytest.fixture(scope="module")
def local_answers() -> dict[str, tuple[int, ...]]:
    with LatentMAS("tiny", **{**FAST, "runtime": "local"}) as system:
        return ask_in_turn(system, QUESTIONS)


def test_threads_and_tasks_of_a_program_that_uses_ray_get_the_answers_they_would_get_in_turn(
    cluster: None, local_answers: dict[str, tuple[int, ...]]
) -> None:
    before = ray.put("its own")
    with LatentMAS("tiny", **ON_RAY) as mas:
        assert ask_in_turn(mas, QUESTIONS[:8]) == {name: local_answers[name] for name in list(local_answers)[:8]}
        assert ask_in_threads(mas, QUESTIONS) == local_answers
        assert ask_in_tasks(mas, QUESTIONS) == local_answers
    assert ray.is_initialized()
    assert ray.get(before) == "its own"


@ray.remote(num_cpus=0)
class Service:
    """Another program, in an actor: plain calls, and calls of an event loop."""

    def __init__(self) -> None:
        self._mas = LatentMAS("tiny", **ON_RAY, placement="colocate")

    def in_threads(self, count: int) -> dict[str, tuple[int, ...]]:
        return ask_in_threads(self._mas, QUESTIONS[:count])

    def in_tasks(self, count: int) -> dict[str, tuple[int, ...]]:
        return ask_in_tasks(self._mas, QUESTIONS[:count])

    def close(self) -> bool:
        self._mas.close()
        return ray.is_initialized()


@ray.remote(num_cpus=0)
class AsyncService:
    """The same as an actor whose methods are coroutines."""

    def __init__(self) -> None:
        self._mas = LatentMAS("tiny", **ON_RAY, placement="colocate")

    async def ask(self, index: int) -> tuple[int, ...]:
        return (await self._mas.aask(QUESTIONS[index])).answer_token_ids

    def close(self) -> bool:
        self._mas.close()
        return ray.is_initialized()


@pytest.mark.slow  # `test_threads_and_tasks_of_a_program_that_uses_ray…` has the same callers
def test_inside_an_actor(cluster: None, local_answers: dict[str, tuple[int, ...]]) -> None:
    expected = {question.id: local_answers[question.id] for question in QUESTIONS[:16]}
    service = Service.remote()
    assert ray.get(service.in_threads.remote(16)) == expected
    assert ray.get(service.in_tasks.remote(16)) == expected
    assert ray.get(service.close.remote())
    ray.kill(service)


@pytest.mark.slow  # `test_threads_and_tasks_of_a_program_that_uses_ray…` has tasks too
def test_inside_an_actor_of_coroutines(cluster: None, local_answers: dict[str, tuple[int, ...]]) -> None:
    service = AsyncService.remote()
    answers = ray.get([service.ask.remote(index) for index in range(16)])
    assert answers == [local_answers[QUESTIONS[index].id] for index in range(16)]
    assert ray.get(service.close.remote())
    ray.kill(service)


@pytest.mark.parametrize("topology", [pytest.param("notes-sequential", marks=pytest.mark.slow), "notes-hierarchical"])
def test_memory_that_another_process_saved_gives_the_answer_of_the_undisturbed_run(
    cluster: None, tmp_path: Path, topology: str
) -> None:
    """This process thinks and saves it, without Ray, and the actor is another one."""
    question = QUESTIONS[1]
    with LatentMAS("tiny", topology=topology, runtime="local", **MEMORY_RUN) as here:
        memory = here.think(question)
        memory.save(tmp_path / "kv.safetensors")
        memory.save(tmp_path / "inputs.safetensors", kv=False)
    with LatentMAS("tiny", topology=topology, runtime="ray", placement="colocate", **MEMORY_RUN) as mas:
        undisturbed = mas.ask(question).answer_token_ids
        kept = mas.ask(question, keep_memory=True)
        assert kept.answer_token_ids == undisturbed
        assert kept.memory is not None
        for kind in ("kv", "inputs"):
            memory = Memory.load(tmp_path / f"{kind}.safetensors")
            assert memory.agents == kept.memory.agents
            assert memory.has_kv == (kind == "kv")
            assert mas.ask(question, memory=memory).answer_token_ids == undisturbed
        assert mas.ask(question, memory=mas.think(question)).answer_token_ids == undisturbed
    with LatentMAS("tiny", topology=topology, runtime="local", **MEMORY_RUN) as other:
        assert other.ask(question, memory=kept.memory).answer_token_ids == undisturbed


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"transport": "tcp", "overlap": False}, marks=pytest.mark.slow),
        {"tp": 2},
        pytest.param({"tp": 2, "placement": "colocate"}, marks=pytest.mark.slow),
    ],
)
def test_memory_is_kept_and_given_by_every_way_to_travel(cluster: None, fields: dict[str, Any]) -> None:
    question = QUESTIONS[2]
    with LatentMAS("tiny", topology=PAIR, runtime="local", **MEMORY_RUN) as reference:
        expected = reference.think(question)
        undisturbed = reference.ask(question).answer_token_ids
    with LatentMAS("tiny", topology=PAIR, runtime="ray", **MEMORY_RUN, **fields) as mas:
        memory = mas.think(question)
        assert memory.agents == expected.agents
        assert memory.num_tokens == expected.num_tokens
        assert memory.spec == expected.spec
        assert mas.ask(question, memory=expected).answer_token_ids == undisturbed
        assert mas.ask(question, memory=memory).answer_token_ids == undisturbed


def test_another_cluster_than_the_one_of_the_program_is_refused(cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "_check_reachable", lambda address, field: None)
    with (
        LatentMAS("tiny", **ON_RAY, address="127.0.0.1:1") as mas,
        pytest.raises(ConfigError, match=r"address: got '127\.0\.0\.1:1'; this process uses the Ray cluster at "),
    ):
        mas.ask(QUESTIONS[0])
