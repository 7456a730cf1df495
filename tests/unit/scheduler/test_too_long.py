"""Questions that do not fit the model's positions fail at once; the others of their batch go on together."""

import pytest

from latentmas_ray.engine.turn import TurnRequest
from latentmas_ray.errors import QuestionsTooLongError
from latentmas_ray.runs.results import Failure
from latentmas_ray.scheduler.batch import Batch, plan_batches
from latentmas_ray.scheduler.retry import RetryState, TurnFailure
from tests.cases.fake_runtime import FakeRuntime
from tests.cases.scheduler import ALL, CHAIN, make_questions, run_all


def refusing(agent: str, *names: str) -> FakeRuntime:
    def failure(work: TurnRequest) -> Exception | None:
        found = {name: f"{name} is too long" for name in names if name in work.question_ids}
        return QuestionsTooLongError(agent, found) if found and work.agent == agent else None

    return FakeRuntime(failure=failure)


@pytest.mark.parametrize("is_synchronous", [False, True])
@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("which", [0, -1])
def test_the_others_go_on_together(name: str, which: int, is_synchronous: bool) -> None:
    agent = ALL[name].agents[which].name
    runtime = refusing(agent, "q1", "q3")
    runtime.is_synchronous = is_synchronous
    answers, failures = run_all(runtime, ALL[name], make_questions(8), batch_size=4)
    assert failures == [Failure(id=one, agent=agent, error=f"{one} is too long", too_long=True) for one in ("q1", "q3")]
    assert sorted(answers) == ["q0", "q2", "q4", "q5", "q6", "q7"]
    tried = [work.question_ids for work in runtime.works if work.agent == agent]
    assert sorted(set(tried)) == [("q0", "q1", "q2", "q3"), ("q0", "q2"), ("q4", "q5", "q6", "q7")]
    assert answers["q0"].answer.endswith("among q0 q2")


def test_a_batch_of_nothing_else_is_tried_once() -> None:
    runtime = refusing("planner", *(f"q{index}" for index in range(4)))
    answers, failures = run_all(runtime, CHAIN, make_questions(4), batch_size=4)
    assert not answers
    assert [failure.id for failure in failures] == ["q0", "q1", "q2", "q3"]
    assert len([work for work in runtime.works if work.agent == "planner"]) == 1


def test_agents_refuse_different_questions() -> None:
    def failure(work: TurnRequest) -> Exception | None:
        name = {"planner": "q0", "critic": "q1", "judger": "q2"}[work.agent]
        return QuestionsTooLongError(work.agent, {name: "no"}) if name in work.question_ids else None

    answers, failures = run_all(FakeRuntime(failure=failure), CHAIN, make_questions(4), batch_size=4)
    assert sorted(answers) == ["q3"]
    assert {failure.id: failure.agent for failure in failures} == {"q0": "planner", "q1": "critic", "q2": "judger"}


def test_answered_questions_of_a_resumed_batch_stay_in_it() -> None:
    (batch,) = plan_batches(make_questions(4), 4, {"q2"})
    failure = TurnFailure(agent="planner", reason="no", refused={"q0": "no", "q2": "no"})
    attempts, failed = RetryState(batch).after(failure, 2)
    assert failed == {"q0": "no"}
    assert [[question.id for question in one.batch.questions] for one in attempts] == [["q1", "q3"]]
    assert attempts[0].batch.done == frozenset()
    assert attempts[0].number == 1


def test_nothing_is_left_of_a_batch_of_answered_questions() -> None:
    (batch,) = plan_batches(make_questions(2), 2, {"q1"})
    assert isinstance(batch, Batch)
    failure = TurnFailure(agent="planner", reason="no", refused={"q0": "no"})
    assert RetryState(batch).after(failure, 2) == ([], {"q0": "no"})
