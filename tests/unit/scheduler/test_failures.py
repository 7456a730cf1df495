"""Runs whose turns or actors fail, or that are interrupted."""

from contextlib import closing

import pytest

from latentmas_ray.engine.turn import TurnRequest
from latentmas_ray.errors import ActorError, ClusterError, RunError, TopologyError, TurnError
from latentmas_ray.runs.results import Answer, Failure
from latentmas_ray.scheduler.batch import plan_batches
from tests.cases.fake_runtime import FakeRuntime
from tests.cases.question_runtime import QuestionRuntime
from tests.cases.scheduler import (
    ALL,
    CHAIN,
    PARALLEL,
    Recorder,
    agent,
    drain,
    make_driver,
    make_questions,
    run_all,
    topology,
)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("is_synchronous", [False, True])
def test_a_failing_question_fails_alone(name: str, is_synchronous: bool) -> None:
    failing = ALL[name].agents[0].name

    def failure(work: TurnRequest) -> Exception | None:
        return TurnError("bad\n  luck") if work.agent == failing and "q3" in work.question_ids else None

    runtime = FakeRuntime(failure=failure, is_synchronous=is_synchronous)
    answers, failures = run_all(runtime, ALL[name], make_questions(10), batch_size=4)
    assert failures == [Failure(id="q3", agent=failing, error="bad luck")]
    assert sorted(answers) == sorted(f"q{index}" for index in range(10) if index != 3)
    tried = [work.question_ids for work in runtime.works if work.agent == failing and "q3" in work.question_ids]
    assert tried == [("q0", "q1", "q2", "q3"), ("q3",)]
    assert answers["q0"].answer.endswith("among q0")
    assert answers["q4"].answer.endswith("among q4 q5 q6 q7")


@pytest.mark.parametrize("failing", ["planner", "critic", "judger"])
def test_the_agent_that_failed_first_is_named(failing: str) -> None:
    """Turns that read a failed turn's segment fail as well, and may be reported earlier."""
    runtime = FakeRuntime(failure=lambda work: TurnError("no") if work.agent == failing else None)
    answers, failures = run_all(runtime, CHAIN, make_questions(1))
    assert not answers
    assert failures == [Failure(id="q0", agent=failing, error="no")]


def test_what_fails_once_is_answered_by_the_retry() -> None:
    failed: set[tuple[str, ...]] = set()

    def failure(work: TurnRequest) -> Exception | None:
        if work.agent == "critic" and work.batch == 1 and not failed:
            failed.add(work.question_ids)
            return TurnError("once")
        return None

    runtime = FakeRuntime(failure=failure)
    answers, failures = run_all(runtime, CHAIN, make_questions(7), batch_size=3)
    assert not failures
    assert len(answers) == 7
    assert failed == {("q3", "q4", "q5")}
    assert answers["q4"].answer.endswith("among q4")
    assert answers["q4"].seconds > answers["q0"].seconds  # counted from the first admission


@pytest.mark.parametrize(("max_attempts", "tries"), [(1, 1), (2, 2), (5, 5)])
def test_a_single_question_has_max_attempts(max_attempts: int, tries: int) -> None:
    runtime = FakeRuntime(failure=lambda work: TurnError("always"))
    _, failures = run_all(runtime, ALL["single"], make_questions(1), max_attempts=max_attempts)
    assert len(failures) == 1
    assert len(runtime.works) == tries


def test_retries_come_before_new_batches() -> None:
    runtime = FakeRuntime(failure=lambda work: TurnError("no") if work.question_ids == ("q0", "q1") else None)
    run_all(runtime, ALL["single"], make_questions(20), max_batches_in_flight=1)
    assert [work.question_ids for work in runtime.works[:4]] == [("q0", "q1"), ("q0",), ("q1",), ("q2", "q3")]


def test_a_retry_comes_before_a_batch_that_waits_for_memory() -> None:
    runtime = FakeRuntime(
        failure=lambda work: TurnError("no") if work.question_ids == ("q0", "q1") else None, memory_limit_bytes=1
    )
    answers, failures = run_all(runtime, CHAIN, make_questions(4))
    assert (sorted(answers), failures) == (["q0", "q1", "q2", "q3"], [])


def test_the_other_turns_of_a_failed_batch_are_cancelled_and_not_counted() -> None:
    runtime = FakeRuntime(
        failure=lambda work: TurnError("no") if work.agent == "code" and len(work.question_ids) > 1 else None,
        seconds=lambda work: 1.0 if work.agent == "code" else 9.0,
    )
    recorder = Recorder()
    results = list(make_driver(runtime, PARALLEL, recorder).run(plan_batches(make_questions(2), 2)))
    assert {result.id for result in results} == {"q0", "q1"}
    assert sorted(runtime.cancelled) == ["code", "math", "science", "summariser"]
    assert recorder.progress[-1].memory_in_flight_bytes == 0


def test_questions_that_have_an_answer_are_not_tried_alone() -> None:
    runtime = FakeRuntime(failure=lambda work: TurnError("no") if len(work.question_ids) > 1 else None)
    results = list(make_driver(runtime, CHAIN).run(plan_batches(make_questions(3), 3, {"q0", "q2"})))
    assert [result.id for result in results] == ["q1"]


def test_a_retry_goes_to_another_replica() -> None:
    """The number of the batch chooses the replica."""
    runtime = FakeRuntime(
        failure=lambda work: TurnError("no") if work.agent == "solver" and work.batch % 2 == 0 else None
    )
    answers, failures = run_all(runtime, ALL["single"], make_questions(3), batch_size=1, replicas=2)
    assert (sorted(answers), failures) == (["q0", "q1", "q2"], [])


def test_a_long_error_is_cut() -> None:
    runtime = FakeRuntime(failure=lambda work: TurnError("long " * 1000))
    _, (failure,) = run_all(runtime, CHAIN, make_questions(1))
    assert len(failure.error) <= 500
    assert failure.error.endswith("…")


@pytest.mark.parametrize("kind", [ActorError, ClusterError, RunError])
def test_a_dead_actor_ends_the_run_but_not_what_was_finished(kind: type[Exception]) -> None:
    runtime = FakeRuntime(failure=lambda work: kind("gone") if work.batch == 3 and work.agent == "judger" else None)
    recorder = Recorder()
    ids: list[str] = []
    with pytest.raises(kind, match="gone"):
        drain(make_driver(runtime, CHAIN, recorder).run(plan_batches(make_questions(20), 2)), ids)
    assert ids == ["q0", "q1", "q2", "q3", "q4", "q5"]
    assert recorder.times_finished == 1
    assert "judger" in runtime.cancelled
    assert not runtime.segments


@pytest.mark.parametrize("dies", [0, 1, 2])
def test_what_finished_at_the_same_time_as_an_actor_died_is_not_lost(dies: int) -> None:
    """One poll returns all three turns; the other answers are returned, whichever turn is handled first."""

    def all_come_due(runtime: FakeRuntime) -> None:
        if len(runtime.works) == 3:
            runtime.now = 10.0

    runtime = FakeRuntime(failure=lambda work: ActorError("gone") if work.batch == dies else None, on_wait=all_come_due)
    ids: list[str] = []
    with pytest.raises(ActorError, match="gone"):
        drain(make_driver(runtime, ALL["single"], max_batches_in_flight=3).run(plan_batches(make_questions(3), 1)), ids)
    assert sorted(ids) == [f"q{index}" for index in range(3) if index != dies]
    assert not runtime.segments


def test_a_prompt_that_cannot_be_rendered_ends_the_run() -> None:
    broken = topology(agent("solver", thinks="text", prompt="{{ question }} {{ missing }}"))
    with pytest.raises(TopologyError, match="missing"):
        list(make_driver(FakeRuntime(), broken).run(plan_batches(make_questions(2), 2)))


def test_ctrl_c_while_waiting_cancels_everything() -> None:
    def interrupt(runtime: FakeRuntime) -> None:
        if runtime.now >= 4:
            raise KeyboardInterrupt

    runtime = FakeRuntime(on_wait=interrupt)
    recorder = Recorder()
    ids: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        drain(make_driver(runtime, CHAIN, recorder).run(plan_batches(make_questions(40), 2)), ids)
    assert ids == ["q0", "q1", "q2", "q3"]
    assert recorder.times_finished == 1
    assert runtime.cancelled
    assert not runtime.segments


def test_closing_the_loop_cancels_everything() -> None:
    runtime = FakeRuntime()
    recorder = Recorder()
    with closing(make_driver(runtime, CHAIN, recorder).run(plan_batches(make_questions(40), 2))) as results:
        first = next(results)
        assert isinstance(first, Answer)
        assert runtime.handles
    assert not runtime.handles
    assert recorder.times_finished == 1


def test_a_scheduler_runs_again_after_an_interrupted_run() -> None:
    runtime = FakeRuntime()
    driver = make_driver(runtime, CHAIN)
    with closing(driver.run(plan_batches(make_questions(40), 2))) as results:
        next(results)
    assert len(list(driver.run(plan_batches(make_questions(4), 2)))) == 4
    assert not runtime.handles


def test_a_question_that_is_settled_is_cancelled_where_it_is_still_written() -> None:
    """Two agents write at the same time; one of them has failed with it, and the other one's text is of no use."""
    names = ("scout", "second", "thinker")
    team = topology(
        agent("scout", thinks="text"),
        agent("second", thinks="text"),
        agent("thinker"),
        agent("judger", *names, thinks="text"),
    )
    runtime = QuestionRuntime(
        writes_at_once={"scout": 4, "second": 4, "judger": 4},
        question_seconds=lambda work, name: 50.0 if (work.agent, name) == ("second", "q1") else 1.0,
        question_failure=lambda work, name: "no" if (work.agent, name) == ("scout", "q1") else None,
    )
    answers, failures = run_all(runtime, team, make_questions(3), batch_size=3, max_attempts=1)
    assert failures == [Failure(id="q1", agent="scout", error="no")]
    assert ("second", "q1") in runtime.cancelled_questions
    assert {name: answer.seconds < 10.0 for name, answer in answers.items()} == {"q0": True, "q2": True}
