"""Guards in the scheduler: alarms with every answer, and text in the prompts of readers that get no memory."""

import json
from typing import Any

import pytest

from latentmas_ray.config import RunConfig
from latentmas_ray.engine.turn import TurnRequest
from latentmas_ray.errors import TurnLostError
from latentmas_ray.runs.results import Answer
from latentmas_ray.runs.summary import summarise
from tests.cases.fake_runtime import FakeRuntime
from tests.cases.scheduler import DIAMOND, MIXED, agent, make_questions, run_all, topology

QUESTIONS = make_questions(4)
PROMPT = "{{ question }} [{{ context }}]"
CHAIN = topology(
    agent("planner"), agent("critic", "planner", prompt=PROMPT), agent("judger", "critic", thinks="text", prompt=PROMPT)
)


def contexts(runtime: FakeRuntime, name: str) -> dict[str, str]:
    """The text between the brackets of an agent's prompts, by question."""
    return {
        question: prompt.messages[-1]["content"].partition("[")[2].removesuffix("]").strip()
        for work in runtime.works
        if work.agent == name
        for question, prompt in zip(work.question_ids, work.prompts, strict=True)
    }


def planner_on_odd_ones(work: TurnRequest, question: str) -> bool:
    return work.agent == "planner" and question in ("q1", "q3")


@pytest.mark.parametrize("guard", ["off", "warn", "drop", "text"])
def test_answers_contain_their_alarms(guard: Any) -> None:
    answers, _ = run_all(FakeRuntime(falls_back=planner_on_odd_ones), CHAIN, QUESTIONS, guard=guard)
    for name, answer in answers.items():
        alarmed = [agent for agent, use in answer.agents.items() if use.alarms]
        assert alarmed == (["planner"] if guard != "off" and name in ("q1", "q3") else [])
        row = json.loads(json.dumps(answer.to_row()))
        assert ("alarms" in row) == bool(alarmed)
        assert Answer.from_row(row) == answer
    summary = summarise(list(answers.values()), [], config=RunConfig(), seconds=1.0)
    assert (summary.num_alarmed, summary.alarms) == ((0, {}) if guard == "off" else (2, {"planner": 2}))


def test_only_latent_turns_are_guarded_and_send_nothing_early() -> None:
    for guard, overlaps in [("off", True), ("warn", True), ("drop", False), ("text", False)]:
        runtime = FakeRuntime()
        run_all(runtime, CHAIN, QUESTIONS, guard=guard)
        assert {work.agent: work.guard for work in runtime.works} == {
            "planner": guard, "critic": guard, "judger": "off",
        }  # fmt: skip
        assert {work.can_overlap for work in runtime.works if work.agent != "judger"} == {overlaps}


def test_fallback_text_is_in_the_prompts_of_all_readers() -> None:
    runtime = FakeRuntime(falls_back=planner_on_odd_ones)
    answers, _ = run_all(runtime, CHAIN, QUESTIONS, guard="text")
    for name in ("critic", "judger"):
        assert contexts(runtime, name) == {
            "q0": "", "q1": "planner wrote:\nplanner wrote on q1",
            "q2": "", "q3": "planner wrote:\nplanner wrote on q3",
        }  # fmt: skip
    assert answers["q1"].agents["planner"].text == "planner wrote on q1"
    assert answers["q0"].agents["planner"].text is None


def test_texts_and_fallback_texts_are_in_topological_order() -> None:
    runtime = FakeRuntime(falls_back=lambda work, question: work.agent == "thinker" and question == "q2")
    run_all(runtime, MIXED, QUESTIONS, guard="text")
    seen = contexts(runtime, "judger")
    assert seen["q0"].startswith("scout wrote:")
    assert "thinker" not in seen["q0"]
    assert seen["q2"].index("scout wrote:") < seen["q2"].index("thinker wrote:\nthinker wrote on q2")


def test_readers_wait_for_results_only_where_text_can_follow() -> None:
    for guard, waits in [("off", False), ("drop", False), ("text", True)]:
        runtime = FakeRuntime()
        run_all(runtime, DIAMOND, QUESTIONS, guard=guard)
        root = runtime.turns_of("root")[0]
        (left,) = [event for event in runtime.turns_of("left") if event.question_ids == root.question_ids]
        assert (left.submitted_at >= root.finished_at) == waits


def test_a_resubmitted_turn_gets_the_fallback_text_too() -> None:
    lost: list[str] = []

    def failure(work: TurnRequest) -> Exception | None:
        if work.agent != "critic" or lost:
            return None
        lost.append(work.agent)
        return TurnLostError("gone")

    runtime = FakeRuntime(falls_back=planner_on_odd_ones, failure=failure)
    answers, failures = run_all(runtime, CHAIN, QUESTIONS, guard="text")
    assert lost
    assert not failures
    assert len(answers) == 4
    assert contexts(runtime, "judger")["q1"] == "planner wrote:\nplanner wrote on q1"
    last = [work for work in runtime.works if work.agent == "critic" and "q1" in work.question_ids][-1]
    assert "planner wrote on q1" in last.prompts[last.question_ids.index("q1")].messages[-1]["content"]
