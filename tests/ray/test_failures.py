"""Failures in an actor, seen from the command line: exit code, message, journal, and how the run continues."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from latentmas_ray.actors.health import monitor as health
from latentmas_ray.cli.main import main
from latentmas_ray.runs.timeline import StartTimeline
from latentmas_ray.system import make_runtime
from latentmas_ray.writing import load as writing_load
from latentmas_ray.writing.text_runner import TextRunner
from tests.cases.collector import Collector, running_collector
from tests.cases.timeline import written_timeline
from tests.ray import stand_ins
from tests.ray.command_cases import QUESTION
from tests.ray.stand_ins import SPEC, On, StandIn, TextStandIn, turns_in

pytestmark = pytest.mark.usefixtures("cluster")

TOPOLOGY = """\
name: pair
agents:
  - {name: planner, prompt: "plan {{ question }}"}
  - {name: judger, reads: [planner], thinks: text, prompt: "judge {{ question }}"}
"""
NUM_QUESTIONS = 6
Run = Callable[..., int]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`latentmas eval` over six questions on two actors with stand-ins, which misbehave on request."""
    (tmp_path / "pair.yaml").write_text(TOPOLOGY)
    lines = [json.dumps({"id": f"q{index}", "question": f"number {index}?"}) for index in range(NUM_QUESTIONS)]
    (tmp_path / "questions.jsonl").write_text("\n".join(lines))

    def run(*flags: str, misbehave: Sequence[On] = (), max_positions: int | None = None) -> int:
        def load(*args: Any, **more: Any) -> StandIn:
            return StandIn(tmp_path, tuple(misbehave))

        def load_text(*args: Any, **more: Any) -> TextRunner:
            engine = TextStandIn(spec=SPEC, misbehave=tuple(misbehave), max_positions=max_positions)
            return TextRunner(engine=engine)

        monkeypatch.setattr(make_runtime, "load_runner", load)
        monkeypatch.setattr(writing_load, "load_text_runner", load_text)
        files = ["--task", str(tmp_path / "questions.jsonl"), "--topology", str(tmp_path / "pair.yaml")]
        return main(["eval", *files, "--output", str(tmp_path / "run"), "--batch-size", "2", *flags])

    return run


def _answers(folder: Path) -> dict[str, str]:
    rows = [json.loads(line) for line in (folder / "run" / "results.jsonl").read_text().splitlines()]
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["id"]: row["answer"] for row in rows}


def _failures(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / "run" / "failures.jsonl").read_text().splitlines()]


UNDISTURBED = {f"q{index}": f"q{index}: judger has read ['planner']" for index in range(NUM_QUESTIONS)}


def test_what_happens_once_costs_nothing(run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One actor raises, dies and hangs in one run; its segments and those that it reads are in the object store."""
    deeds = {"q1": stand_ins.raise_once, "q3": stand_ins.die_once, "q5": stand_ins.hang_once}
    armed = {name: tmp_path / f"armed-{name}" for name in deeds}
    for path in armed.values():
        path.touch()
    misbehave = [On("judger", name, partial(deed, armed[name]), armed[name]) for name, deed in deeds.items()]
    assert run("--transport", "object_store", "--turn-timeout", "3", misbehave=misbehave) == 0
    out, err = capfd.readouterr()
    assert "the actor of agent judger died" in err
    assert " (turn_timeout), and was taken to hang; continuing" in err
    assert "Traceback" not in out + err
    assert not any(path.exists() for path in armed.values())
    assert _answers(tmp_path) == UNDISTURBED


def test_an_actor_that_takes_its_segments_along_is_started_again(
    run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    armed = tmp_path / "armed"
    armed.touch()
    deed = On("planner", "q3", partial(stand_ins.die_once, armed), armed)
    with running_collector(monkeypatch) as collector:
        assert run("--transport", "shared_memory", "--otel", misbehave=[deed]) == 0
    out, err = capfd.readouterr()
    assert "the actor of agent planner died" in err
    assert err.count("; continuing\n") >= 1
    assert "Traceback" not in out + err
    assert not armed.exists()
    assert _answers(tmp_path) == UNDISTURBED
    assert len({turn.pid for turn in turns_in(tmp_path) if turn.agent == "planner"}) == 2
    (start,) = written_timeline(tmp_path / "run").starts
    assert [row.replica for row in start.replicas if row.event == "replica_lost"] == ["planner 0"]
    assert "planner 0" in {row.replica for row in start.lost_turns}
    assert {(turn.agent, turn.replica) for turn in start.turns} == {("planner", "planner 0"), ("judger", "judger 0")}
    assert all(turn.nodes and 0 < turn.submitted_at < turn.seen_at for turn in start.turns)
    assert {read.transport for turn in start.turns for read in turn.reads} == {"shared_memory"}
    check_spans(collector, start)


def check_spans(collector: Collector, start: StartTimeline) -> None:
    """The spans that arrived are those of the timeline's turns, losses and hand-overs."""
    times = {(turn.agent, name): turn for turn in start.turns for name in turn.questions}
    questions = {one.span_id: one for one in collector.named("invoke_workflow pair")}
    assert {one.attributes["latentmas.question.id"] for one in questions.values()} == set(UNDISTURBED)
    lost = [one for one in collector.named("invoke_agent planner") if one.error is not None]
    assert {one.attributes["latentmas.question.id"] for one in lost} >= {"q3"}
    assert all("the actor of agent planner died" in one.error for one in lost if one.error)
    for one in collector.named("invoke_agent judger"):
        if one.error is not None:
            continue
        question = questions[one.parent_id]
        turn = times["judger", one.attributes["latentmas.question.id"]]
        assert one.trace_id == question.trace_id
        assert question.begin <= one.begin <= one.end <= question.end + 1e-3
        assert one.attributes["latentmas.replica"] == "judger 0"
        assert one.attributes["latentmas.nodes"] == list(turn.nodes)
        (link,) = one.links
        assert link.attributes["latentmas.hand_over.transport"] == "shared_memory"
        assert link.attributes["latentmas.hand_over.bytes"] == turn.reads[0].num_bytes
    (run,) = collector.named("run pair")
    assert "latentmas.replica_lost" in {name for name, _ in run.events}


@pytest.mark.slow  # actors start seven times; `tests/unit/scheduler` counts the attempts
def test_a_question_that_kills_its_actor_fails_alone(
    run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(misbehave=[On("judger", "q4", stand_ins.die)]) == 1
    out, err = capfd.readouterr()
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert [line.partition(";")[0] for line in errors] == ["error: 1 question failed"]
    assert "--resume" in err
    assert "Traceback" not in out + err
    (failure,) = _failures(tmp_path)
    assert (failure["id"], failure["agent"]) == ("q4", "judger")
    assert "the actor of agent judger died" in failure["error"]
    assert _answers(tmp_path) == {name: answer for name, answer in UNDISTURBED.items() if name != "q4"}
    assert run("--resume", "--runtime", "local") == 0
    assert _answers(tmp_path) == UNDISTURBED
    assert list(_answers(tmp_path)) == list(UNDISTURBED)


def test_an_actor_that_dies_of_everything_ends_the_run(
    run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "MAX_LOSSES", 1)
    assert run(misbehave=[On("judger", f"q{index}", stand_ins.die) for index in range(NUM_QUESTIONS)]) == 1
    err = capfd.readouterr().err
    assert "error: the actor of agent judger died 2 times, and none of its turns finished in between" in err
    assert "--resume" in err
    assert run("--resume", "--runtime", "local") == 0
    assert _answers(tmp_path) == UNDISTURBED


DEEDS = {
    "q1": (On("planner", "q1", stand_ins.raise_error), "the runner did not like this question"),
    "q2": (On("planner", "q2", stand_ins.raise_one_way), "half of it broke"),
    "q4": (On("judger", "q4", stand_ins.raise_unpicklable), "nothing can carry this"),
    "q5": (On("judger", "q5", stand_ins.raise_one_way), "half of it broke"),
}


def test_only_the_questions_fail_whose_turns_do(run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Whatever is raised in an actor, picklable or not, by an agent that is read or by the one that answers."""
    assert run(misbehave=[on for on, _ in DEEDS.values()]) == 1
    err = capfd.readouterr().err
    assert "error: 4 questions failed" in err
    assert "Traceback" not in err
    failures = {failure["id"]: failure for failure in _failures(tmp_path)}
    assert failures.keys() == DEEDS.keys()
    for name, (on, message) in DEEDS.items():
        assert f"{name} ({on.agent}): " in err
        assert failures[name]["agent"] == on.agent
        assert failures[name]["error"].endswith(message)
        assert f"agent {on.agent}" not in failures[name]["error"]  # its own field names it
    assert _answers(tmp_path) == {name: answer for name, answer in UNDISTURBED.items() if name not in DEEDS}
    assert run("--resume", "--runtime", "local") == 0
    assert _answers(tmp_path) == UNDISTURBED
    assert not (tmp_path / "run" / "failures.jsonl").exists()


@pytest.mark.parametrize("agent", ["planner", pytest.param("judger", marks=pytest.mark.slow)])
def test_a_question_that_does_not_fit_is_not_tried_again(
    agent: str, run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """With overlap and without, by an agent that is read or by the one that answers; the others stay together."""
    if agent == "planner":
        refuse = On(agent, "q2", partial(stand_ins.raise_too_long, agent, "q2"))
        assert run(misbehave=[refuse]) == 1
        error = "q2 needs 9 positions, the model has 8"
    else:  # its engine has room for the memory and the prompt of a short question
        path = tmp_path / "questions.jsonl"
        path.write_text(path.read_text().replace("number 2?", "number 2, which is long" * 5))
        assert run(max_positions=100) == 1
        error = "memory up to position 120 + 121 prompt tokens + 1 new token need 242 positions, model scripted has 100"
    (failure,) = _failures(tmp_path)
    assert failure == {"id": "q2", "agent": agent, "error": failure["error"], "too_long": True}
    assert failure["error"].startswith(error)
    assert "Traceback" not in capfd.readouterr().err
    assert _answers(tmp_path) == {name: answer for name, answer in UNDISTURBED.items() if name != "q2"}


def test_a_bad_model_found_by_an_actor_is_the_users_mistake(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(writing_load, "load_text_runner", stand_ins.refuse_model)
    assert main(["ask", QUESTION, "--method", "single"]) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert "--model: got 'made-up'; its weights must load: half of them are missing" in err


def test_a_model_without_weights_is_told_by_the_actor(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    assert main(["ask", "why?", "--model", str(tmp_path), "--method", "single"]) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert f"--model: got '{tmp_path}'" in err
