"""Slow graders: no turn waits for them, every answer gets its own grade, and an aborted run loses no answer."""

import time
from contextlib import closing
from dataclasses import replace
from threading import Event

import pytest

from latentmas_ray.errors import SandboxError
from latentmas_ray.runs.grading import Grading, num_workers
from latentmas_ray.runs.results import Answer
from latentmas_ray.scheduler.batch import plan_batches
from latentmas_ray.tasks import Grade, Question
from tests.cases.fake_runtime import FakeRuntime
from tests.cases.scheduler import CHAIN, Recorder, make_driver, make_questions

LIMIT_SECONDS = 20.0


def code_questions(count: int) -> list[Question]:
    return [replace(question, kind="code", record={"test": "assert f()"}) for question in make_questions(count)]


class HeldGrader:
    """Grades code only once it is allowed to."""

    def __init__(self) -> None:
        self.allowed = Event()
        self.cancelled = 0

    def __call__(self, question: Question, answer: str, *, cancelled: Event | None = None) -> Grade:
        while question.kind == "code" and not self.allowed.wait(0.01):
            if cancelled is not None and cancelled.is_set():
                self.cancelled += 1
                break
        return Grade(prediction=f"{question.id}: {answer}", correct=True)


def fails_at_q1(question: Question, answer: str, *, cancelled: Event | None = None) -> Grade:
    if question.id == "q1":
        raise SandboxError("nothing confines it")
    return Grade(prediction=answer, correct=True)


def test_all_turns_are_carried_out_while_grades_are_waited_for() -> None:
    grader, observer, runtime = HeldGrader(), Recorder(), FakeRuntime()
    driver = make_driver(runtime, CHAIN, observer, grader)
    plain = make_questions(5)[4]
    results = driver.run(plan_batches([*code_questions(4), plain], 1))
    first = next(results)  # the one that needs no slow grader comes first, so all others are through by then
    assert isinstance(first, Answer)
    assert first.id == "q4"
    assert not runtime.handles
    grader.allowed.set()
    rest = [result for result in results if isinstance(result, Answer)]
    assert {answer.id: answer.prediction for answer in rest} == {
        answer.id: f"{answer.id}: {answer.answer}" for answer in rest
    }
    assert sorted(answer.id for answer in rest) == ["q0", "q1", "q2", "q3"]
    assert len(observer.answers) == 5


def test_leaving_the_run_ends_what_is_being_graded() -> None:
    grader = HeldGrader()
    driver = make_driver(FakeRuntime(), CHAIN, grader=grader)
    with closing(driver.run(plan_batches([*code_questions(2), make_questions(3)[2]], 1))) as results:
        next(results)
    deadline = time.monotonic() + LIMIT_SECONDS
    while not grader.cancelled:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_error_of_the_grader_ends_the_run_after_what_was_graded() -> None:
    driver = make_driver(FakeRuntime(), CHAIN, grader=fails_at_q1)
    got: list[str] = []
    with pytest.raises(SandboxError, match="nothing confines it"):
        got.extend(result.id for result in driver.run(plan_batches(code_questions(3), 1)))
    assert "q1" not in got


def test_a_grade_that_cannot_be_made_costs_no_answer_but_its_own() -> None:
    driver = make_driver(FakeRuntime(), CHAIN, grader=fails_at_q1)
    got: list[str] = []
    with pytest.raises(SandboxError, match="nothing confines it"):
        got.extend(result.id for result in driver.run(plan_batches(code_questions(3), 3)))
    assert got == ["q0", "q2"]


def test_answers_that_a_resumed_run_has_are_not_graded_again() -> None:
    graded: list[str] = []

    def grader(question: Question, answer: str, *, cancelled: Event | None = None) -> Grade:
        graded.append(question.id)
        return Grade(prediction=answer, correct=True)

    driver = make_driver(FakeRuntime(), CHAIN, grader=grader)
    results = list(driver.run(plan_batches(make_questions(3), 3, done_ids={"q1"}), num_done=1))
    assert sorted(graded) == sorted(result.id for result in results) == ["q0", "q2"]


def test_grades_come_out_in_the_order_in_which_answers_were_given() -> None:
    grader = HeldGrader()
    grader.allowed.set()
    grading: Grading[int] = Grading(grader)
    for key in range(4):
        grading.submit(key, [(question, ["an answer"]) for question in code_questions(2)])
    taken: list[int] = []
    while len(grading):
        taken += [key for key, _ in grading.collect(LIMIT_SECONDS)]
    assert taken == [0, 1, 2, 3]
    assert grading.collect(0.0) == []
    grading.cancel()


def test_half_of_the_cores_grade() -> None:
    assert 1 <= num_workers() <= 8
