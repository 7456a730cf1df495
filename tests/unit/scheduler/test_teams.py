"""Several answers to a question: of several answering agents, of several samples, and what becomes of missing ones."""

from typing import Any

import pytest

from latentmas_ray.engine.turn import TurnRequest
from latentmas_ray.errors import QuestionsTooLongError, TurnError, TurnLostError
from latentmas_ray.runs.decisions.votes import AnswerVote
from latentmas_ray.runs.results import Answer
from latentmas_ray.scheduler.batch import plan_batches
from latentmas_ray.scheduler.turns import DriverSettings
from latentmas_ray.seeds import sample_seed
from latentmas_ray.tasks.question import Question
from latentmas_ray.topology import Topology
from tests.cases.fake_runtime import FakeRuntime
from tests.cases.question_runtime import QuestionRuntime
from tests.cases.scheduler import CHAIN, agent, make_driver, make_questions, run_all

NAMES = ("first", "second", "third")
TEAM = Topology(
    name="team",
    decides="majority",
    agents=(agent("planner"), *(agent(name, "planner", thinks="text") for name in NAMES)),
)
TALKING = Topology(
    name="talking",
    decides="majority",
    agents=(agent("scout", thinks="text"), *(agent(name, "scout", thinks="text") for name in NAMES)),
)


def numbered(count: int) -> list[Question]:
    return [
        Question(id=f"q{index}", question=f"question {index}", kind="number", gold="7", record={"question": "q"})
        for index in range(count)
    ]


def says(work: TurnRequest, name: str, sample: int) -> str:
    """The first and the third agent are right about questions of even number; nothing else is ever right."""
    is_even = int(name[1:]) % 2 == 0
    number = 7 if work.agent != "second" and is_even else {"first": 1, "second": 2, "third": 1}[work.agent]
    return f"So \\boxed{{{number}}}"


def runtimes(**more: Any) -> list[FakeRuntime]:
    return [
        FakeRuntime(answer=says, **more),
        FakeRuntime(answer=says, is_synchronous=True, **more),
        QuestionRuntime(answer=says, writes_at_once=dict.fromkeys(NAMES, 4), **more),
    ]


def cast(answer: Answer) -> dict[str, str | None]:
    return {vote.voter: vote.label for vote in answer.votes}


@pytest.mark.parametrize("kind", range(3))
@pytest.mark.parametrize("of", [TEAM, TALKING])
def test_the_majority_of_three_agents(kind: int, of: Topology) -> None:
    runtime = runtimes()[kind]
    answers, failures = run_all(runtime, of, numbered(4), batch_size=3)
    assert failures == []
    assert {name: answer.prediction for name, answer in answers.items()} == {"q0": "7", "q1": "1", "q2": "7", "q3": "1"}
    assert {name: answer.correct for name, answer in answers.items()} == {
        "q0": True,
        "q1": False,
        "q2": True,
        "q3": False,
    }
    assert cast(answers["q0"]) == {"first": "7", "second": "2", "third": "7"}
    decision = answers["q0"].decision
    assert decision is not None
    assert decision.rule == "majority"
    assert decision.weights == dict.fromkeys(NAMES, 1.0)
    assert decision.scores == {"7": 2.0, "2": 1.0}
    assert decision.is_final
    assert answers["q0"].answer == "So \\boxed{7}"
    # Of answering agents the texts are the votes; each has its own use.
    assert [answers["q0"].agents[name].text for name in NAMES] == [None] * 3
    assert answers["q0"].output_tokens == sum(use.output_tokens for use in answers["q0"].agents.values())
    assert answers["q0"] == Answer.from_row(answers["q0"].to_row())


def test_memory_that_others_still_read_is_not_dropped() -> None:
    runtime = FakeRuntime(answer=says)
    run_all(runtime, TEAM, numbered(1))
    assert [work.others_read for work in runtime.works if work.is_last] == [True] * 3
    single = FakeRuntime()
    run_all(single, CHAIN, make_questions(1))
    assert [work.others_read for work in single.works if work.is_last] == [False]


@pytest.mark.parametrize("kind", range(3))
def test_samples_of_one_agent(kind: int) -> None:
    def draws(work: TurnRequest, name: str, sample: int) -> str:
        return f"\\boxed{{{(7, 5, 5)[sample]}}}" if name == "q0" else "I do not know" if sample else "\\boxed{7}"

    runtime = runtimes()[kind]
    runtime.answer = draws
    if isinstance(runtime, QuestionRuntime):
        runtime.writes_at_once = {"judger": 2}
    answers, _ = run_all(runtime, CHAIN, numbered(2), samples=3)
    assert [work.samples for work in runtime.works] == [1, 1, 3]
    first = answers["q0"]
    assert cast(first) == {"judger": "7", "judger/1": "5", "judger/2": "5"}
    assert (first.answer, first.prediction, first.correct) == ("\\boxed{5}", "5", False)
    assert [vote.seed for vote in first.votes] == [sample_seed(DriverSettings().sampling.seed, one) for one in range(3)]
    assert first.agents["judger"].output_tokens == 3 * (len("\\boxed{7}") % 7)
    # Answers that cannot be read are no votes.
    assert cast(answers["q1"]) == {"judger": "7", "judger/1": None, "judger/2": None}
    assert answers["q1"].correct
    # Memory is moved once, whatever the number of samples.
    one = runtimes()[kind]
    if isinstance(one, QuestionRuntime):
        one.writes_at_once = {"judger": 2}
    one.answer = draws
    alone, _ = run_all(one, CHAIN, numbered(2))
    assert first.transfers == alone["q0"].transfers


def test_a_question_without_any_vote_has_no_prediction() -> None:
    runtime = FakeRuntime(answer=lambda work, name, sample: "I do not know")
    answers, _ = run_all(runtime, CHAIN, numbered(1), samples=2)
    assert answers["q0"].prediction is None
    assert answers["q0"].correct is False
    assert answers["q0"].answer == "I do not know"
    assert answers["q0"].decision is not None
    assert answers["q0"].decision.label is None


def test_ties_do_not_depend_on_the_order_of_agents() -> None:
    def draws(work: TurnRequest, name: str, sample: int) -> str:
        return f"\\boxed{{{('first', 'second', 'third').index(work.agent)}}}"

    answers, _ = run_all(FakeRuntime(answer=draws), TEAM, numbered(20))
    turned = TEAM.replace(agents=[TEAM.agents[0], *reversed(TEAM.agents[1:])])
    others, _ = run_all(FakeRuntime(answer=draws), turned, numbered(20))
    assert {name: one.prediction for name, one in answers.items()} == {
        name: one.prediction for name, one in others.items()
    }
    assert {one.prediction for one in answers.values()} == {"0", "1", "2"}
    assert all(one.decision and one.decision.tied == ("0", "1", "2") for one in answers.values())


def missing(answer: Answer) -> list[AnswerVote]:
    return [vote for vote in answer.votes if vote.error is not None]


@pytest.mark.parametrize("kind", range(3))
def test_an_agent_that_fails_has_no_vote_and_the_others_decide(kind: int) -> None:
    runtime = runtimes(failure=lambda work: TurnError("it broke") if work.agent == "first" else None)[kind]
    if isinstance(runtime, QuestionRuntime):
        runtime.takes_with_fault = 0.5  # before it has written a question
    answers, failures = run_all(runtime, TEAM, numbered(2), batch_size=2, max_attempts=2)
    assert failures == []
    assert cast(answers["q0"]) == {"first": None, "second": "2", "third": "7"}
    (vote,) = missing(answers["q0"])
    assert (vote.agent, vote.error, vote.answer) == ("first", "it broke", "")
    assert answers["q0"].agents["first"].output_tokens == 0
    assert answers["q0"] == Answer.from_row(answers["q0"].to_row())


@pytest.mark.parametrize("kind", range(2))
def test_a_question_fails_if_all_agents_that_answer_fail(kind: int) -> None:
    runtime = runtimes(failure=lambda work: TurnError("it broke") if work.agent in NAMES else None)[kind]
    answers, failures = run_all(runtime, TEAM, numbered(1))
    assert answers == {}
    assert [failure.error for failure in failures] == ["it broke"]


def test_an_agent_whose_positions_are_too_few_has_no_vote() -> None:
    def failure(work: TurnRequest) -> Exception | None:
        too_long = {name: "it is too long" for name in work.question_ids if name == "q1"}
        return QuestionsTooLongError("second", too_long) if work.agent == "second" and too_long else None

    answers, failures = run_all(FakeRuntime(answer=says, failure=failure), TEAM, numbered(3), batch_size=3)
    assert failures == []
    assert missing(answers["q0"]) == missing(answers["q2"]) == []
    assert [vote.error for vote in missing(answers["q1"])] == ["it is too long"]
    assert answers["q1"].prediction == "1"


def test_a_question_that_one_agent_cannot_write() -> None:
    runtime = QuestionRuntime(
        answer=says,
        writes_at_once=dict.fromkeys(NAMES, 4),
        question_failure=lambda work, name: "no room" if (work.agent, name) == ("third", "q1") else None,
    )
    answers, failures = run_all(runtime, TEAM, numbered(3), batch_size=3)
    assert failures == []
    assert [vote.error for vote in missing(answers["q1"])] == ["no room"]
    assert missing(answers["q0"]) == []


@pytest.mark.parametrize("kind", range(3))
def test_a_lost_turn_of_one_agent_changes_no_answer(kind: int) -> None:
    whole, _ = run_all(runtimes()[kind], TEAM, numbered(4), batch_size=2)
    lost = set[str]()

    def failure(work: TurnRequest) -> Exception | None:
        key = f"{work.agent} {work.batch}"
        if work.agent != "second" or key in lost:
            return None
        lost.add(key)
        return TurnLostError("its actor died")

    again, failures = run_all(runtimes(failure=failure)[kind], TEAM, numbered(4), batch_size=2)
    assert lost
    assert failures == []
    for name, answer in whole.items():
        assert (again[name].prediction, again[name].votes) == (answer.prediction, answer.votes)


def test_answers_do_not_wait_for_the_longest_of_their_batch() -> None:
    """As soon as all agents have answered a question it is decided."""
    seconds = {("first", "q0"): 9.0}
    runtime = QuestionRuntime(
        answer=says,
        writes_at_once=dict.fromkeys(NAMES, 4),
        question_seconds=lambda work, name: seconds.get((work.agent, name), 1.0),
    )
    seen = [(one.id, runtime.now) for one in make_driver(runtime, TEAM).run(plan_batches(numbered(3), 3))]
    assert [name for name, _ in seen] == ["q1", "q2", "q0"]
    assert seen[0][1] < seen[2][1]
