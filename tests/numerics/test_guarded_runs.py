"""Whole runs of a model whose thoughts are not finite: garbage without a guard, and with one what a run without these
thoughts gives."""

import json
from pathlib import Path
from typing import Any

import pytest

from latentmas_ray import LatentMAS
from latentmas_ray.cli.main import main
from latentmas_ray.report import load_run
from latentmas_ray.runs.traces import read_traces
from tests.numerics.broken_model import save_broken_model

QUESTIONS = ["What is 1 + 1?", "Which is longer?", "Why?"]
FIELDS: dict[str, Any] = {
    "runtime": "local", "device": "cpu", "dtype": "float32", "latent_steps": 3, "max_new_tokens": 8, "temperature": 0.8,
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_broken_model(tmp_path_factory.mktemp("broken"))


def answers(model: str, topology: str, **changes: Any) -> list[tuple[int, ...]]:
    with LatentMAS(**{**FIELDS, "model": model, "topology": topology, **changes}) as system:
        return [answer.answer_token_ids for answer in sorted(system.run(QUESTIONS), key=lambda answer: answer.id)]


@pytest.mark.parametrize("topology", ["sequential", "hierarchical"])
def test_a_guard_makes_of_a_broken_run_one_that_is_whole(model: str, topology: str) -> None:
    garbage = answers(model, topology)
    assert answers(model, topology, guard="warn") == garbage
    dropped = answers(model, topology, guard="drop")
    written = answers(model, topology, guard="text")
    if topology == "hierarchical":  # in a chain the prompts of later agents cannot be read, and are not handed over
        assert dropped == answers(model, topology, memory="prompt-only")
    assert written == answers(model, topology, method="text")
    assert garbage != dropped != written != garbage


@pytest.mark.parametrize("transfer_mode", ["kv", "recompute"])
def test_it_does_not_matter_how_memory_is_handed_over(model: str, transfer_mode: str) -> None:
    assert answers(model, "sequential", guard="drop", transfer=transfer_mode) == answers(
        model, "sequential", guard="drop"
    )


def test_alarms_are_told_with_every_answer_and_at_the_end(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = tmp_path / "task.jsonl"
    task.write_text("".join(json.dumps({"id": f"q{n}", "question": text}) + "\n" for n, text in enumerate(QUESTIONS)))
    arguments = ["--task", str(task), "--model", model, "--runtime", "local", "--latent-steps", "2", "--guard", "text"]
    arguments += ["--max-new-tokens", "4", "--output", str(tmp_path / "run"), "--trace", "1"]
    assert main(["eval", *arguments]) == 0
    assert "alarms in 3 of 3 questions: planner 3, critic 3, refiner 3" in " ".join(capsys.readouterr().out.split())
    run = load_run(tmp_path / "run")
    for answer in run.answers:
        assert [alarm.kind for alarm in answer.agents["critic"].alarms] == ["not-finite"]
        assert answer.agents["critic"].text is not None
        assert answer.agents["judger"].alarms == ()
    assert run.summary is not None
    assert (run.summary.num_alarmed, run.summary.alarms) == (3, {"planner": 3, "critic": 3, "refiner": 3})
    trace = read_traces(tmp_path / "run")["q0"].agents["planner"]
    assert all(not thought.tokens for thought in trace.thoughts)
    json.loads((tmp_path / "run" / "traces.jsonl").read_text(), parse_constant=pytest.fail)  # no NaN in it
    assert main(["inspect", str(tmp_path / "run"), "--question", "q0"]) == 0
    assert "not finite" in capsys.readouterr().out
