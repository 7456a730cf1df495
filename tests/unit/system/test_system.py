"""`LatentMAS` from Python: checks before anything starts, and consecutive runs."""

import json
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import yaml

from latentmas_ray import Agent, Answer, Failure, LatentMAS, RunConfig, Topology
from latentmas_ray.engine.turn import TurnRequest
from latentmas_ray.errors import (
    ActorError,
    ConfigError,
    JournalError,
    ModelError,
    QuestionsFailedError,
    TaskError,
    TurnError,
)
from latentmas_ray.scheduler.protocol import TurnHandle
from latentmas_ray.system.fields import RunFields
from latentmas_ray.system.setup import Setup
from latentmas_ray.tasks import load_questions
from latentmas_ray.tasks.question import Question
from latentmas_ray.topology import prompts
from tests.cases.fake_runtime import FakeRuntime

GOLDEN_MODEL = Path(__file__).parents[2] / "golden" / "model"


@pytest.mark.parametrize("name", ["./checkpoint", "checkpoint"])
def test_a_model_folder_is_found_from_another_working_directory(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an actor on another machine of the cluster has one."""
    shutil.copytree(GOLDEN_MODEL, tmp_path / "checkpoint")
    monkeypatch.chdir(tmp_path)
    with LatentMAS(model=name, runtime="local", method="single", max_new_tokens=2) as mas:
        monkeypatch.chdir("/")
        (answer,) = mas.run(["x?"])
        assert answer.id == "q0"
        assert mas.config.model == name


def test_a_duplicate_id_is_an_error_before_a_model_is_loaded() -> None:
    with LatentMAS(runtime="local") as mas, pytest.raises(TaskError) as caught:
        list(mas.run([{"id": "a", "question": "x?"}, "y?", {"id": "a", "question": "z?"}]))
    assert caught.value.field == "questions[2]: id"
    assert str(caught.value) == "questions[2]: id: got 'a'; ids must differ; questions[0] has the same"


def test_after_a_run_that_lost_its_actors_the_next_one_starts_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def give_up(runtime: FakeRuntime) -> None:
        raise ActorError("no more of them")

    runtimes = [FakeRuntime(), FakeRuntime(on_wait=give_up)]
    monkeypatch.setattr(Setup, "make_runtime", lambda self, topology, num_batches, config=None: runtimes.pop())
    with LatentMAS(runtime="local", model="tiny", method="single") as mas:
        with pytest.raises(ActorError, match="no more of them"):
            list(mas.run(["why?"]))
        (answer,) = mas.run(["why?"])
    assert answer.question == "why?"
    assert not runtimes


def test_an_evaluation_starts_actors_for_its_own_task_and_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Their layout is searched for the task, and those of a killed driver are found by the folder."""
    seen: list[RunConfig] = []

    def make(config: RunConfig, *_: Any) -> FakeRuntime:
        seen.append(config)
        return FakeRuntime()

    monkeypatch.setattr("latentmas_ray.system.setup.make_runtime", make)
    with LatentMAS(task="chain", method="single") as mas:
        mas.evaluate("notes", limit=2, output=str(tmp_path / "run"), resume=True)
    with LatentMAS(task="chain", method="single") as mas:
        mas.evaluate(limit=1)
        list(mas.map(["why?"]))  # on the same actors
    assert [(one.task, one.output, one.resume) for one in seen] == [
        ("notes", str(tmp_path / "run"), True),
        ("chain", None, False),
    ]


def test_failures_stand_in_their_place_or_are_raised_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(work: TurnRequest) -> TurnError | None:
        return TurnError("it fell over") if "q1" in work.question_ids else None

    monkeypatch.setattr(
        Setup, "make_runtime", lambda self, topology, num_batches, config=None: FakeRuntime(failure=fail)
    )
    questions = ["a?", "b?", "c?"]
    with LatentMAS(runtime="local", batch_size=2) as mas:
        results = list(mas.map(questions, return_failures=True))
        assert [type(result) for result in results] == [Answer, Failure, Answer]
        answers: list[str] = []
        with pytest.raises(QuestionsFailedError) as caught:
            answers.extend(answer.id for answer in mas.map(questions))
        assert answers == ["q0", "q2"]
        assert [failure.id for failure in caught.value.failures] == ["q1"]
        assert str(caught.value) == "1 of 3 questions have no answer; question q1: agent planner: it fell over"
        assert {result.id for result in mas.as_completed(questions, return_failures=True)} == {"q0", "q1", "q2"}
        with pytest.raises(QuestionsFailedError):
            mas.ask({"id": "q1", "question": "b?"})
        with pytest.raises(QuestionsFailedError):
            mas.think({"id": "q1", "question": "b?"})


def test_waiting_results_are_returned_before_the_error_of_an_aborted_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def give_up(runtime: FakeRuntime) -> None:
        if runtime.now > 6:
            raise ActorError("no more of them")

    def seconds(work: TurnRequest) -> float:
        return 100.0 if "q0" in work.question_ids else 1.0

    def make(setup: Setup, topology: Topology, num_batches: int, config: object = None) -> FakeRuntime:
        return ManyAtOnce(on_wait=give_up, seconds=seconds)

    monkeypatch.setattr(Setup, "make_runtime", make)
    answers: list[str] = []
    with LatentMAS(runtime="local", method="single", batch_size=1, replicas=4) as mas, pytest.raises(ActorError):
        answers.extend(answer.id for answer in mas.map(["a?", "b?", "c?"]))
    assert answers == ["q1", "q2"]


class ManyAtOnce(FakeRuntime):
    """Every turn begins at once, as on a replica of its own."""

    def submit(self, work: TurnRequest, segments: Mapping[str, Any]) -> TurnHandle:
        self._free_at.clear()
        return super().submit(work, segments)


def test_the_keywords_are_the_fields_of_the_configuration() -> None:
    keywords = get_type_hints(RunFields)
    fields = {name: field.annotation for name, field in RunConfig.model_fields.items()}
    own_parameters = {"model", "topology"}
    switches = {"realign": bool}  # short forms of other fields
    assert keywords == {name: kind for name, kind in (fields | switches).items() if name not in own_parameters}


def test_the_first_argument_may_be_the_model_or_a_whole_configuration() -> None:
    assert LatentMAS("tiny", runtime="local").config == RunConfig(model="tiny", runtime="local")
    config = RunConfig(latent_steps=3, runtime="local")
    assert LatentMAS(config).config == config
    assert LatentMAS(config, latent_steps=4).config.latent_steps == 4
    with pytest.raises(ModelError, match="tokenizer"):
        LatentMAS("tiny", tokenizer=object())  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="tokenizer"):
        LatentMAS(object())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="latent_step"):
        LatentMAS("tiny", latent_step=3)  # type: ignore[call-arg]


def test_a_traced_question_answers_as_it_would_and_tells_what_its_agents_thought() -> None:
    fields: dict[str, Any] = {"model": "tiny", "task": "notes", "topology": "hierarchical", "runtime": "local"}
    fields |= {"latent_steps": 3, "max_new_tokens": 8, "temperature": 0.0}
    questions = load_questions("notes", 3)
    with LatentMAS(**fields) as system:
        plain = list(system.run(questions))
    with LatentMAS(**fields, trace=2) as system:
        traced = list(system.run(questions))
    assert [answer.answer_token_ids for answer in traced] == [answer.answer_token_ids for answer in plain]
    assert [answer.trace is not None for answer in traced] == [True, True, False]
    trace = traced[1].trace
    assert trace is not None
    assert trace.embeddings is not None
    assert [len(agent.thoughts) for agent in trace.agents.values()] == [3, 3, 3, 0]
    assert trace.agents["answerer"].text == traced[1].answer
    assert set(trace.agents["answerer"].effects) == {"expert_1", "expert_2", "expert_3"}


@pytest.mark.parametrize(
    ("fields", "given", "bound"),
    [({"task": "gsm8k"}, None, 2048), ({"task": "medqa", "gold": "A"}, None, 4096), ({}, None, 256), ({}, 7, 7)],
)
def test_without_a_bound_on_new_tokens_a_run_has_its_tasks(
    fields: dict[str, str], given: int | None, bound: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Setup, "make_runtime", lambda self, topology, num_batches, config=None: FakeRuntime())
    task = tmp_path / "task.jsonl"
    task.write_text(json.dumps({"id": "1", "question": "How many?", "gold": "7", **fields}))
    run = {"runtime": "local", "task": str(task), "max_new_tokens": given, "output": str(tmp_path / "out")}
    with LatentMAS(**run) as mas:
        assert mas.evaluate().num_questions == 1
    config = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())
    assert config["max_new_tokens"] == bound
    with LatentMAS(**{**run, "resume": True}) as mas:  # left out again, it is the same
        mas.evaluate()
    with LatentMAS(**{**run, "resume": True, "max_new_tokens": bound}) as mas:
        mas.evaluate()
    with LatentMAS(**{**run, "resume": True, "max_new_tokens": bound + 1}) as mas, pytest.raises(JournalError):
        mas.evaluate()


@pytest.mark.parametrize("topology", ["sequential", "hierarchical"])
def test_every_prompt_of_a_run_is_rendered_once(topology: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the check before anything starts; turns, their bounds and turns that are carried out again use the same."""
    rendered: Counter[tuple[str, str, str]] = Counter()
    render = prompts._rendered

    def count(agent: Agent, question: Question, context: str, *more: Any) -> prompts.RenderedPrompt:
        rendered[agent.name, question.id, context] += 1
        return render(agent, question, context, *more)

    monkeypatch.setattr(prompts, "_rendered", count)
    monkeypatch.setattr(Setup, "make_runtime", lambda self, topology, num_batches, config=None: FakeRuntime())
    with LatentMAS(runtime="local", topology=topology, limit=5, batch_size=2) as mas:
        mas.evaluate("sample", seeds=[1, 2])
    assert {count for _, count in rendered.items()} == {1}
    assert len({question for _, question, _ in rendered}) == 5
