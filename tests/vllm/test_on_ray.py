"""Runs on Ray whose answering agent writes on vLLM: the answers are those of our own engine, whatever happens."""

import os
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray

from latentmas_ray import Answer, Failure, LatentMAS, Topology
from latentmas_ray.actors.ray_runtime import RayRuntime
from latentmas_ray.runs.run_events import ReplicaLost, RunStarted
from latentmas_ray.tasks import load_questions
from tests.vllm.poisoned import load_poisoned_runner

ROOT = Path(__file__).parents[2]
PAIR = Topology.parse("""
name: pair
agents:
  - {name: planner, prompt: "Question: {{ question }}\\nThink."}
  - {name: judger, thinks: text, reads: planner, prompt: "Question: {{ question }}\\nAnswer."}
""")
FIELDS: dict[str, Any] = {
    "topology": PAIR,
    "dtype": "float32",
    "batch_size": 5,
    "max_new_tokens": 48,
}


class Events:
    """Records the events of a run."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_event(self, event: Any) -> None:
        self.seen.append(event)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray on this machine, whose workers import what the tests import."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
        patch.setenv("LATENTMAS_TORCH_THREADS", "1")
        patch.setenv("OMP_NUM_THREADS", "1")
        ray.shutdown()  # the one of the tests in other folders, which may have run in this process
        ray.init(
            address="local",
            num_cpus=4,
            object_store_memory=300 * 2**20,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
        )
        yield
        ray.shutdown()


def tokens(answers: list[Any]) -> dict[str, tuple[int, ...]]:
    return {answer.id: answer.answer_token_ids for answer in answers if isinstance(answer, Answer)}


def own_answers(num_questions: int, **fields: Any) -> Mapping[str, tuple[int, ...]]:
    """What our own engine answers, in this process."""
    fields = {**FIELDS, **fields}
    with LatentMAS("tiny", runtime="local", **fields) as mas:
        return tokens(list(mas.map(load_questions("notes", num_questions))))


@pytest.mark.usefixtures("cluster")
def test_an_actor_that_is_killed_in_the_middle_costs_no_answer() -> None:
    """One of a few questions at the same time: the others wait, and all are answered as our own engine does."""
    expected, events = own_answers(40, temperature=0, latent_steps=10), Events()
    fields = {"temperature": 0, "latent_steps": 10, "engine": "vllm", "decode_batch": 6}
    answers = []
    with LatentMAS("tiny", observer=events, **FIELDS, **fields) as mas:
        for answer in mas.as_completed(load_questions("notes", 40)):
            answers.append(answer)
            if len(answers) == 8:
                runtime = mas._setup.live._started.runtime  # type: ignore[union-attr]
                assert isinstance(runtime, RayRuntime)
                (replica,) = runtime._manager.replicas_of()["judger"]
                ray.kill(replica.actors[0], no_restart=True)
    assert any(isinstance(event, ReplicaLost) for event in events.seen)
    (started,) = [event for event in events.seen if isinstance(event, RunStarted)]
    assert started.description.endswith("engine vllm for judger (asked for), transformers for planner")
    assert tokens(answers) == expected
    assert len(answers) == len(expected) == 40


@pytest.mark.usefixtures("cluster")
@pytest.mark.slow  # `tests/ray/test_texts.py` has divided replicas with another engine
@pytest.mark.parametrize("topology", ["sequential", "hierarchical"])
def test_a_model_that_is_divided_over_two_ranks_answers_alike(topology: str) -> None:
    """Every rank reads its heads. One of the answering agent's ranks is killed in the middle."""
    fields = {**FIELDS, "task": "notes", "topology": topology, "temperature": 0, "latent_steps": 6}
    expected, events, answers = own_answers(12, **fields), Events(), []
    with LatentMAS("tiny", observer=events, tp=2, engine="vllm", decode_batch=3, **fields) as mas:
        for answer in mas.as_completed(load_questions("notes", 12)):
            answers.append(answer)
            if len(answers) == 4 and topology == "sequential":
                runtime = mas._setup.live._started.runtime  # type: ignore[union-attr]
                assert isinstance(runtime, RayRuntime)
                (replica,) = runtime._manager.replicas_of()[mas.topology.answering_agent.name]
                ray.kill(replica.actors[1], no_restart=True)
    assert any(isinstance(event, ReplicaLost) for event in events.seen) == (topology == "sequential")
    assert tokens(answers) == expected
    assert len(answers) == len(expected) == 12


@pytest.mark.usefixtures("cluster")
@pytest.mark.slow  # `test_answers.py` has the questions of such agents; here each of them has an actor with vLLM
@pytest.mark.parametrize(
    "fields", [{"method": "single"}, {"method": "text"}, {"latent_steps": 10, "transfer": "recompute"}]
)
def test_agents_that_read_no_kv_answer_alike(fields: dict[str, Any]) -> None:
    fields = {**FIELDS, **fields, "temperature": 0.7}
    expected = own_answers(12, **fields)
    with LatentMAS("tiny", **fields, engine="vllm") as mas:
        assert tokens(list(mas.map(load_questions("notes", 12)))) == expected


@pytest.mark.usefixtures("cluster")
def test_a_memory_that_cannot_be_loaded_fails_its_question_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two replicas, drawn answers, and one question whose memory is damaged whenever it is asked for."""
    questions = load_questions("notes", 20)
    lost = questions[7].id
    monkeypatch.setattr("latentmas_ray.actors.text.vllm_runner.load_vllm_runner", partial(load_poisoned_runner, lost))
    expected = own_answers(20, temperature=0.9, seed=5, latent_steps=10)
    fields = {
        "temperature": 0.9,
        "seed": 5,
        "latent_steps": 10,
        "engine": "vllm",
        "decode_batch": 4,
        "replicas": {"judger": 2},
    }
    with LatentMAS("tiny", **FIELDS, **fields) as mas:
        results = list(mas.as_completed(questions, return_failures=True))
    failures = [result for result in results if isinstance(result, Failure)]
    assert [(failure.id, failure.agent) for failure in failures] == [(lost, "judger")]
    assert "its memory could not be loaded" in failures[0].error
    assert tokens(results) == {name: ids for name, ids in expected.items() if name != lost}
