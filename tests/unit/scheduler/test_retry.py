"""The rules of retries."""

import pytest

from latentmas_ray.errors import ActorError, ClusterError, ConfigError, RunError, TurnError
from latentmas_ray.scheduler.batch import Batch
from latentmas_ray.scheduler.protocol import TurnFailed, TurnHandle, TurnLost
from latentmas_ray.scheduler.retry import MAX_ERROR_CHARS, RetryState, TurnFailure, is_batch_retried
from tests.cases.scheduler import make_questions

HANDLE = TurnHandle("planner", None, None)


@pytest.mark.parametrize(
    ("attempt", "num_losses", "can_resubmit_lost_turns"),
    [(1, 0, True), (1, 3, True), (1, 4, False), (2, 1, True), (2, 2, False), (9, 1, True), (9, 2, False)],
)
def test_later_attempts_may_lose_fewer_turns(attempt: int, num_losses: int, can_resubmit_lost_turns: bool) -> None:
    retry = RetryState(Batch(number=0, questions=tuple(make_questions(2))), attempt)
    assert retry.can_resubmit_lost_turns(num_losses, max_losses=3) == can_resubmit_lost_turns


@pytest.mark.parametrize(
    ("size", "attempt", "has_failed_for_good"),
    [(1, 1, False), (1, 2, True), (1, 3, True), (2, 2, False), (2, 9, False)],
)
def test_a_failure_is_final_for_a_question_alone(size: int, attempt: int, has_failed_for_good: bool) -> None:
    retry = RetryState(Batch(number=0, questions=tuple(make_questions(size))), attempt)
    assert retry.has_failed_for_good(max_attempts=2) == has_failed_for_good


def test_a_batch_is_split_into_its_open_questions() -> None:
    batch = Batch(number=4, questions=tuple(make_questions(3)), done=frozenset({"q1"}))
    split = RetryState(batch, 1, admitted_at=7.5).split()
    assert [[question.id for question in one.batch.questions] for one in split] == [["q0"], ["q2"]]
    assert {(one.number, one.admitted_at) for one in split} == {(2, 7.5)}
    assert len({one.batch.number for one in split}) == 2


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (TurnError("no"), True),
        (ActorError("no"), False),
        (ClusterError("no"), False),
        (RunError("no"), False),
        (ConfigError("x", "1", "2"), False),
    ],
)
def test_only_errors_of_the_turn_itself_are_retried(error: RunError, expected: bool) -> None:
    assert is_batch_retried(error) == expected


def test_a_reason_is_one_line_of_bounded_length() -> None:
    assert TurnFailure.of(TurnFailed(HANDLE, TurnError("bad\n  luck"))) == TurnFailure(
        agent="planner", reason="bad luck"
    )
    assert TurnFailure.of(TurnFailed(HANDLE, TurnError())).reason == "TurnError"
    long = TurnFailure.of(TurnLost(HANDLE, "long " * 1000, lacks_memory=True))
    assert (len(long.reason), long.is_loss, long.lacks_memory, long.is_suspect) == (MAX_ERROR_CHARS, True, True, False)
