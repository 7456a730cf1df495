"""Runs on Ray whose answering agent writes on vLLM: the answers are those of our own engine, whatever happens."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import pytest
import ray

from latentmas_ray import Agent, Answer, Failure, LatentMAS, Topology
from latentmas_ray.actors.ray_runtime import RayRuntime
from latentmas_ray.runs.run_events import ReplicaLost, RunStarted
from latentmas_ray.tasks import load_questions
from tests.vllm.asked import DAG
from tests.vllm.poisoned import load_poisoned_runner

pytestmark = pytest.mark.usefixtures("cluster")


def team(name: str, **reads: str | list[str]) -> Topology:
    """Agents and whom each of them reads. The judger answers, the others think."""
    writes = {"thinks": "text", "prompt": "Question: {{ question }}\nAnswer."}
    thinks = {"prompt": "Question: {{ question }}\nThink."}
    agents = [Agent(name=one, reads=whom, **(writes if one == "judger" else thinks)) for one, whom in reads.items()]
    return Topology(name=name, agents=agents)


ALONE = team("alone", judger=[])
PAIR = team("pair", planner=[], judger="planner")
CHAIN = team("chain-of-three", planner=[], critic="planner", judger="critic")
BRANCHES = team("branches", planner=[], critic=[], judger=["planner", "critic"])
FIELDS: dict[str, Any] = {
    "topology": PAIR,
    "dtype": "float32",
    "batch_size": 5,
    "max_new_tokens": 48,
    "temperature": 0,
}


class Events:
    """Records the events of a run."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_event(self, event: Any) -> None:
        self.seen.append(event)


def tokens(answers: list[Any]) -> dict[str, tuple[int, ...]]:
    return {answer.id: answer.answer_token_ids for answer in answers if isinstance(answer, Answer)}


def own_answers(num_questions: int, **fields: Any) -> Mapping[str, tuple[int, ...]]:
    """What our own engine answers, in this process."""
    with LatentMAS("tiny", runtime="local", **{**FIELDS, **fields}) as mas:
        return tokens(list(mas.map(load_questions("notes", num_questions))))


def on_actors_of(mas: LatentMAS, **fields: Any) -> LatentMAS:
    """The same agents, or some of them, with other settings, on the actors of `mas`."""
    other = LatentMAS("tiny", engine="vllm", **{**FIELDS, **fields})
    other._setup.live = mas._setup.live
    return other


def answers_with_a_loss(mas: LatentMAS, num_questions: int, *, after: int, rank: int) -> list[Answer]:
    """All answers; when there are `after` of them, an actor of the judger is killed."""
    answers = []
    for answer in mas.as_completed(load_questions("notes", num_questions)):
        answers.append(answer)
        if len(answers) == after:
            runtime = mas._setup.live._started.runtime  # type: ignore[union-attr]
            assert isinstance(runtime, RayRuntime)
            (replica,) = runtime._manager.replicas_of()["judger"]
            ray.kill(replica.actors[rank], no_restart=True)
    return answers


@pytest.fixture(scope="class")
def pair(cluster: None) -> Iterator[LatentMAS]:
    """A thinker and a writer with few questions at the same time; it also reads recompute inputs."""
    fields = {**FIELDS, "latent_steps": 10, "transfer": "recompute"}
    with LatentMAS("tiny", engine="vllm", decode_batch=6, **fields) as mas:
        yield mas


class TestAPair:
    """Runs on the same actors, one after another."""

    def test_an_actor_that_is_killed_in_the_middle_costs_no_answer(self, pair: LatentMAS) -> None:
        """The others wait, and all are answered as our own engine does."""
        expected, events = own_answers(40, latent_steps=10), Events()
        mas = on_actors_of(pair, latent_steps=10, decode_batch=6, observer=events)
        answers = answers_with_a_loss(mas, 40, after=8, rank=0)
        assert any(isinstance(event, ReplicaLost) for event in events.seen)
        (started,) = [event for event in events.seen if isinstance(event, RunStarted)]
        assert started.description.endswith("engine vllm for judger (asked for), transformers for planner")
        assert tokens(answers) == expected
        assert len(answers) == len(expected) == 40

    @pytest.mark.parametrize(
        "fields", [{"latent_steps": 10, "transfer": "recompute"}, {"topology": ALONE, "method": "single"}]
    )
    def test_a_writer_that_reads_no_kv_answers_alike(self, pair: LatentMAS, fields: dict[str, Any]) -> None:
        fields = {**fields, "temperature": 0.7}
        answers = tokens(list(on_actors_of(pair, **fields).map(load_questions("notes", 12))))
        assert answers == own_answers(12, **fields)
        assert len(answers) == 12


@pytest.mark.slow  # `tests/ray/test_texts.py` has divided replicas with another engine
def test_a_model_that_is_divided_over_two_ranks_answers_alike() -> None:
    """Every rank reads its heads, or all recompute inputs. A rank of the writer is killed in the middle of the last."""
    cases: list[dict[str, Any]] = [
        {"topology": CHAIN, "transfer": "recompute", "temperature": 0.7},
        {"topology": CHAIN},
        {"topology": BRANCHES, "temperature": 1.3},
        {"topology": BRANCHES},
    ]
    own, events = [own_answers(12, latent_steps=6, **more) for more in cases], Events()
    fields = {"tp": 2, "decode_batch": 3, "latent_steps": 6}
    with LatentMAS("tiny", engine="vllm", **{**FIELDS, **fields, **cases[0]}) as mas:
        for more, expected in zip(cases[:-1], own, strict=False):
            assert tokens(list(on_actors_of(mas, **fields, **more).map(load_questions("notes", 12)))) == expected
        last = on_actors_of(mas, **fields, **cases[-1], observer=events)
        assert tokens(answers_with_a_loss(last, 12, after=4, rank=1)) == own[-1]
    assert any(isinstance(event, ReplicaLost) for event in events.seen)
    assert len(own[-1]) == 12


@pytest.mark.slow  # `test_answers.py` has these memories on the engine alone, and the first test here a pair on Ray
def test_a_graph_and_its_controls_answer_alike() -> None:
    """Five agents, and what their memory is replaced by: all on the same actors."""
    cases: dict[str, dict[str, Any]] = {
        "matched": {"latent_steps": 20},
        "sampled": {"latent_steps": 20, "temperature": 1.3},
        "prompt-only": {"latent_steps": 20, "memory": "prompt-only"},
        "latent-only": {"latent_steps": 20, "memory": "latent-only"},
        "deranged": {"latent_steps": 20, "memory": "deranged"},
        "none": {"memory": "none"},
    }
    own = {name: own_answers(10, topology=DAG, **more) for name, more in cases.items()}
    with LatentMAS("tiny", engine="vllm", **{**FIELDS, "topology": DAG, "latent_steps": 20}) as mas:
        for name, more in cases.items():
            other = on_actors_of(mas, topology=DAG, **more)
            assert tokens(list(other.map(load_questions("notes", 10)))) == own[name], name
    changed = {name for name, answers in own.items() if answers != own["matched"]}
    assert changed == cases.keys() - {"matched"}


@pytest.mark.slow  # `test_answers.py` has the questions of such agents; here each of them has an actor with vLLM
def test_agents_that_all_write_answer_alike() -> None:
    fields = {**FIELDS, "method": "text", "temperature": 0.7}
    expected = own_answers(12, **fields)
    with LatentMAS("tiny", **fields, engine="vllm") as mas:
        assert tokens(list(mas.map(load_questions("notes", 12)))) == expected


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
    with LatentMAS("tiny", **{**FIELDS, **fields}) as mas:
        results = list(mas.as_completed(questions, return_failures=True))
    failures = [result for result in results if isinstance(result, Failure)]
    assert [(failure.id, failure.agent) for failure in failures] == [(lost, "judger")]
    assert "its memory could not be loaded" in failures[0].error
    assert tokens(results) == {name: ids for name, ids in expected.items() if name != lost}
