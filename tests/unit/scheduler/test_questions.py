"""Agents that write every question for itself: a question ends, is answered, fails and is tried again alone."""

from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentmas_ray.engine.turn import TurnRequest
from latentmas_ray.errors import QuestionsTooLongError, TurnError, TurnLostError
from latentmas_ray.runs.results import Answer, Failure
from latentmas_ray.scheduler.batch import plan_batches
from latentmas_ray.scheduler.protocol import Event, QuestionDone
from latentmas_ray.scheduler.turns import DriverSettings
from latentmas_ray.topology.agent import Topology
from tests.cases.question_runtime import QuestionRuntime
from tests.cases.scheduler import (
    ALL,
    CHAIN,
    MIXED,
    PARALLEL,
    SINGLE,
    TALK,
    Recorder,
    agent,
    make_driver,
    make_questions,
    run_all,
    topology,
)

RAGGED = {"q0": 1.0, "q1": 9.0, "q2": 2.0, "q3": 3.0}
THREE = topology(agent("scout", thinks="text"), agent("thinker"), agent("judger", "scout", "thinker", thinks="text"))


def ragged(seconds: Mapping[str, float] = RAGGED, **more: object) -> QuestionRuntime:
    return QuestionRuntime(question_seconds=lambda work, name: seconds.get(name, 1.0), **more)  # type: ignore[arg-type]


def requests_of(runtime: QuestionRuntime, name: str) -> list[tuple[tuple[str, ...], frozenset[str]]]:
    return [(work.question_ids, work.skipped) for work in runtime.works if work.agent == name]


def test_an_answer_does_not_wait_for_the_longest_of_its_batch() -> None:
    runtime = ragged()
    seen = [(result.id, runtime.now) for result in make_driver(runtime, CHAIN).run(plan_batches(make_questions(4), 4))]
    assert seen == [("q0", 3.0), ("q2", 4.0), ("q3", 5.0), ("q1", 11.0)]
    answers, _ = run_all(ragged(), CHAIN, make_questions(4), batch_size=4)
    assert {name: answer.seconds for name, answer in answers.items()} == dict(seen)
    assert answers["q3"].answer == "judger on q3 among q0 q1 q2 q3"
    assert answers["q3"].batch_size == 4
    assert answers["q3"].transfers == answers["q1"].transfers


def test_an_answer_waits_for_the_results_of_all_agents() -> None:
    """They are a part of it, and may be reported later than the answering agent's."""
    runtime = ragged(reported_after=lambda work: 4.5 if work.agent == "planner" else 0.0)
    seen = [(result.id, runtime.now) for result in make_driver(runtime, CHAIN).run(plan_batches(make_questions(4), 4))]
    assert [name for name, _ in seen] == ["q0", "q2", "q3", "q1"]
    assert [now for _, now in seen] == [5.5, 5.5, 5.5, 11.0]
    runtime = ragged(reported_after=lambda work: 4.5 if work.agent == "planner" else 0.0)
    answers, _ = run_all(runtime, CHAIN, make_questions(4), batch_size=4)
    assert answers["q0"].seconds == 3.0
    assert list(answers["q0"].agents) == ["planner", "critic", "judger"]


def test_questions_whose_events_are_lost_are_answered_at_the_end_of_their_turn() -> None:
    runtime = ragged(is_lost=lambda event: isinstance(event, QuestionDone) and event.question_id != "q2")
    seen = [(result.id, runtime.now) for result in make_driver(runtime, CHAIN).run(plan_batches(make_questions(4), 4))]
    assert seen == [("q2", 4.0), ("q0", 11.0), ("q1", 11.0), ("q3", 11.0)]


@pytest.mark.parametrize("is_reported", [True, False])
@pytest.mark.parametrize("max_attempts", [1, 2, 3])
def test_a_question_that_cannot_be_written_is_retried_alone(is_reported: bool, max_attempts: int) -> None:
    runtime = ragged(
        question_failure=lambda work, name: "out of\n luck" if name == "q2" else None,
        is_lost=lambda event: isinstance(event, QuestionDone) and not is_reported,
    )
    answers, failures = run_all(runtime, CHAIN, make_questions(6), batch_size=4, max_attempts=max_attempts)
    assert failures == [Failure(id="q2", agent="judger", error="out of luck")]
    assert sorted(answers) == ["q0", "q1", "q3", "q4", "q5"]
    tries = [work.question_ids for work in runtime.works if work.agent == "judger" and "q2" in work.question_ids]
    assert tries == [("q0", "q1", "q2", "q3"), *[("q2",)] * (max_attempts - 1)]
    assert Counter(name for _, name, _, _ in runtime.written)["q1"] == 1


def test_what_could_not_be_written_once_is_answered_by_its_retry() -> None:
    runtime = ragged(question_failure=lambda work, name: "no" if name == "q0" and len(work.question_ids) > 1 else None)
    answers, failures = run_all(runtime, CHAIN, make_questions(4), batch_size=4)
    assert not failures
    assert answers["q0"].answer == "judger on q0 among q0"
    assert answers["q0"].seconds == 6.0  # since the first admission: 1 + 1 + 1, and again


def test_a_question_that_another_text_agent_could_not_write_leaves_its_batch() -> None:
    runtime = ragged(
        writes_at_once={"scout": 4, "judger": 4},
        question_failure=lambda work, name: "no" if work.agent == "scout" and name == "q1" else None,
    )
    answers, failures = run_all(runtime, THREE, make_questions(3), batch_size=3)
    assert failures == [Failure(id="q1", agent="scout", error="no")]
    assert sorted(answers) == ["q0", "q2"]
    assert requests_of(runtime, "judger") == [(("q0", "q1", "q2"), frozenset({"q1"}))]


def test_a_batch_without_a_question_left_goes_no_further() -> None:
    runtime = ragged(
        writes_at_once={"scout": 4, "judger": 4},
        question_failure=lambda work, name: "no" if work.agent == "scout" else None,
    )
    answers, failures = run_all(runtime, THREE, make_questions(2), batch_size=2)
    assert not answers
    assert [one.id for one in failures] == ["q0", "q1"]
    assert {work.agent for work in runtime.works} == {"scout", "thinker"}


def test_a_batch_may_lose_its_last_question_and_a_turn_at_the_same_time() -> None:
    runtime = ragged(
        {"q0": 1.0, "q1": 1.0},
        writes_at_once={"scout": 4},
        question_failure=lambda work, name: "no" if work.agent == "scout" else None,
        failure=lambda work: TurnError("no") if work.agent == "thinker" else None,
    )
    answers, failures = run_all(runtime, THREE, make_questions(2), batch_size=2)
    assert (answers, sorted(one.id for one in failures)) == ({}, ["q0", "q1"])


@pytest.mark.parametrize("ignores_skipped", [False, True])
def test_what_was_answered_before_its_actor_died_is_not_answered_again(ignores_skipped: bool) -> None:
    deaths = [TurnLostError("it died", lacks_memory=False)]
    runtime, recorder = (
        ragged(
            failure=lambda work: deaths.pop() if work.agent == "judger" and deaths else None,
            takes_with_fault=2.5,
            ignores_skipped=ignores_skipped,
        ),
        Recorder(),
    )
    results = list(make_driver(runtime, CHAIN, recorder).run(plan_batches(make_questions(4), 4)))
    assert [result.id for result in results] == ["q0", "q2", "q3", "q1"]
    assert not any(isinstance(result, Failure) for result in results)
    assert [work.agent for work in runtime.works].count("planner") == 1
    assert len(recorder.faults) == 1
    tokens = [event.tokens for event in recorder.progress]
    assert tokens != sorted(tokens), "those of the lost texts do not count"
    if not ignores_skipped:
        assert requests_of(runtime, "judger") == [
            (("q0", "q1", "q2", "q3"), frozenset()),
            (("q0", "q1", "q2", "q3"), frozenset({"q0", "q2"})),
        ]
        assert Counter(name for _, name, _, _ in runtime.written) == {"q0": 1, "q1": 1, "q2": 1, "q3": 1}


def test_a_turn_that_fails_after_an_answer_costs_only_the_others() -> None:
    runtime = ragged(
        failure=lambda work: TurnError("no") if work.agent == "judger" and len(work.question_ids) > 1 else None,
        takes_with_fault=2.5,
    )
    answers, failures = run_all(runtime, CHAIN, make_questions(4), batch_size=4)
    assert (sorted(answers), failures) == (["q0", "q1", "q2", "q3"], [])
    assert [ids for ids, _ in requests_of(runtime, "judger")] == [("q0", "q1", "q2", "q3"), ("q1",), ("q3",)]


def test_a_turn_that_is_lost_with_nothing_left_to_answer_is_not_repeated() -> None:
    """All its questions are answered, and its result is lost with its actor."""
    runtime = ragged(
        {"q0": 1.0, "q1": 1.0},
        failure=lambda work: TurnLostError("it died", lacks_memory=False) if work.agent == "judger" else None,
        takes_with_fault=5.0,
    )
    answers, failures = run_all(runtime, CHAIN, make_questions(2))
    assert (sorted(answers), failures) == (["q0", "q1"], [])
    assert len(runtime.works) == 3


def test_questions_that_never_fit_leave_and_answers_stay() -> None:
    def failure(work: TurnRequest) -> Exception | None:
        if work.agent != "judger" or "q3" not in work.question_ids:
            return None
        return QuestionsTooLongError("judger", {"q3": "too long"})

    answers, failures = run_all(ragged(failure=failure, takes_with_fault=2.5), CHAIN, make_questions(4), batch_size=4)
    assert sorted(answers) == ["q0", "q1", "q2"]
    assert [(one.id, one.error) for one in failures] == [("q3", "too long")]


def test_a_resumed_run_writes_only_the_questions_without_an_answer() -> None:
    runtime = ragged()
    batches = plan_batches(make_questions(4), 4, {"q1", "q3"})
    results = list(make_driver(runtime, CHAIN).run(batches))
    assert [result.id for result in results] == ["q0", "q2"]
    assert {name for _, name, _, _ in runtime.written} == {"q0", "q2"}
    assert isinstance(results[0], Answer)
    assert results[0].answer == "judger on q0 among q0 q1 q2 q3"  # the thoughts are those of the whole batch


def test_the_answering_agent_is_kept_full() -> None:
    """Long and short answers: a place that is free is taken at once, whatever the others of its batch do."""
    seconds = {f"q{index}": 40.0 if index % 4 == 0 else 4.0 for index in range(64)}
    runtime = QuestionRuntime(
        writes_at_once={"judger": 8},
        question_seconds=lambda work, name: seconds[name],
        seconds=lambda work: 0.25,
    )
    answers, _ = run_all(runtime, CHAIN, make_questions(64), batch_size=4)
    assert len(answers) == 64
    last_start = max(start for _, _, start, _ in runtime.written)
    changes = sorted({time for _, _, start, end in runtime.written for time in (start, end)})
    for now, later in pairwise(time for time in changes if 2.0 < time <= last_start):
        middle = (now + later) / 2
        assert sum(start < middle < end for _, _, start, end in runtime.written) == 8


def test_questions_in_flight_are_bounded() -> None:
    runtime, recorder = QuestionRuntime(writes_at_once={"judger": 8}, seconds=lambda work: 0.1), Recorder()
    seen = [0]
    runtime.on_wait = lambda _: seen.append(runtime.num_unwritten)
    list(make_driver(runtime, CHAIN, recorder).run(plan_batches(make_questions(60), 2)))
    assert max(seen) == 8 + 3 * 2  # at the answering agent or on the way to it


def test_the_memory_budget_bounds_them_too() -> None:
    def peak_bytes(limit: int) -> int:
        runtime = QuestionRuntime(
            writes_at_once={"judger": 40}, memory_limit_bytes=limit, question_seconds=lambda work, name: 50.0
        )
        answers, _ = run_all(runtime, CHAIN, make_questions(40), latent_steps=2)
        assert len(answers) == 40
        return runtime.peak_bytes

    assert 0 < peak_bytes(4000) <= 4000 < peak_bytes(10**9)


def test_runs_share_the_places_and_none_waits_for_the_end_of_another() -> None:
    runtime = QuestionRuntime(
        writes_at_once={"judger": 4},
        question_seconds=lambda work, name: 10.0 + float(name[1:]),  # one after another
    )
    driver = make_driver(runtime, CHAIN)
    limit = 4 + 2 * 2 + 2
    with closing(driver.run(plan_batches(make_questions(60), 2))) as long:
        next(long)
        started = runtime.now
        short = driver.run(plan_batches(make_questions(20), 2))
        next(short)
        # One batch of a run starts at once; the others of both runs take turns.
        assert [turn.submitted_at for turn in runtime.turns if turn.submitted_at >= started][:3] == [started] * 3
        for _ in range(6):
            next(long)
            next(short)
            assert runtime.num_unwritten <= limit + 2


def test_a_caller_that_leaves_cancels_the_questions_that_are_being_written() -> None:
    runtime, recorder = ragged(), Recorder()
    with closing(make_driver(runtime, CHAIN, recorder).run(plan_batches(make_questions(8), 4))) as results:
        assert next(results).id == "q0"
    assert not runtime.handles
    assert not runtime.segments
    assert runtime.cancelled.count("judger") == 2
    assert [answer.id for answer in recorder.answers] == ["q0"]


@pytest.mark.parametrize("of", [TALK, SINGLE], ids=["talk", "single"])
def test_agents_that_all_write_text_wait_for_no_batch(of: Topology) -> None:
    names = [agent.name for agent in of.agents]
    runtime = ragged(writes_at_once=dict.fromkeys(names, 4))
    ends: dict[str, float] = {}
    answers, _ = run_all(runtime, of, make_questions(4), batch_size=4)
    for agent_name, question, start, end in runtime.written:
        assert start == ends.get(question, 0.0), agent_name
        ends[question] = end
    assert {name: answer.seconds for name, answer in answers.items()} == {
        name: len(names) * seconds for name, seconds in RAGGED.items()
    }


def test_a_resumed_run_of_texts_has_only_the_questions_without_an_answer() -> None:
    runtime = ragged(writes_at_once=dict.fromkeys(("planner", "critic", "judger"), 4))
    results = list(make_driver(runtime, TALK).run(plan_batches(make_questions(6), 4, {"q1", "q5"})))
    assert sorted(result.id for result in results) == ["q0", "q2", "q3", "q4"]
    assert {work.question_ids for work in runtime.works} == {("q0",), ("q2",), ("q3",), ("q4",)}
    assert len({work.batch for work in runtime.works}) == 4


def test_readers_of_texts_wait_for_the_batch_where_an_agent_thinks() -> None:
    runtime = ragged(writes_at_once={"scout": 4, "judger": 4})
    run_all(runtime, MIXED, make_questions(4), batch_size=4)
    assert {start for name, _, start, _ in runtime.written if name == "judger"} == {9.0}


def test_progress_counts_tokens_while_they_are_written() -> None:
    runtime, recorder = ragged(), Recorder()
    list(make_driver(runtime, CHAIN, recorder).run(plan_batches(make_questions(4), 4)))
    growing = [event for event in recorder.progress if event.num_writing]
    assert max(event.num_writing for event in growing) == 4
    assert [event.num_done for event in growing] == sorted(event.num_done for event in growing)
    assert growing[-1].num_done == 3
    tokens = [event.tokens for event in recorder.progress]
    assert tokens == sorted(tokens)
    assert len({event.tokens for event in growing}) > 4
    assert recorder.progress[-1].num_writing == 0
    whole = list(make_driver(ragged(writes_at_once={}), CHAIN, recorder).run(plan_batches(make_questions(4), 4)))
    assert len(whole) == 4
    assert recorder.progress[-1].tokens == tokens[-1]


FAULTS = ("none", "lost", "lost with memory", "failed", "too long")


@st.composite
def orders(draw: st.DrawFn) -> tuple[Topology, QuestionRuntime, frozenset[str]]:
    """A topology, a runtime with any durations, delays, losses and failures, and the questions that never succeed."""
    of = ALL[draw(st.sampled_from(sorted(ALL)))]
    names = [one.name for one in of.agents]
    writers = [one.name for one in of.agents if one.thinks == "text"]
    writing = draw(st.lists(st.sampled_from(writers), unique=True, min_size=1))
    durations = draw(st.lists(st.floats(0.1, 9.0), min_size=7, max_size=7))
    delays = draw(st.lists(st.sampled_from([0.0, 0.0, 0.5, 7.0]), min_size=3, max_size=3))
    bad = draw(st.frozensets(st.sampled_from([f"q{index}" for index in range(8)]), max_size=3))
    failing = draw(st.sampled_from(writing))
    faults = draw(st.lists(st.tuples(st.sampled_from(names), st.sampled_from(FAULTS)), max_size=5))
    lost_events = draw(st.lists(st.booleans(), min_size=1, max_size=9))
    count = [0]

    def failure(work: TurnRequest) -> Exception | None:
        if not faults or faults[0][0] != work.agent:
            return None
        kind = faults.pop(0)[1]
        if kind == "lost with memory":
            runtime.gone.update(segment for segment in runtime.segments if segment.batch_key == work.question_ids)
        if kind.startswith("lost"):
            return TurnLostError(f"the actor of {work.agent} died", lacks_memory=False, is_suspect=False)
        return TurnError("no") if kind == "failed" else None

    def is_lost(event: Event) -> bool:
        count[0] += 1
        return isinstance(event, QuestionDone) and lost_events[count[0] % len(lost_events)]

    runtime = QuestionRuntime(
        writes_at_once={name: draw(st.integers(1, 6)) for name in writing},
        question_seconds=lambda work, name: durations[(len(work.agent) + int(name[1:])) % 7],
        question_failure=lambda work, name: "never" if work.agent == failing and name in bad else None,
        reported_after=lambda work: delays[work.batch % 3],
        failure=failure,
        is_lost=is_lost,
        takes_with_fault=draw(st.floats(0.1, 9.0)),
    )
    return of, runtime, bad


@given(case=orders(), batch_size=st.integers(1, 4))
def test_every_question_has_one_result_whatever_the_order_of_events(
    case: tuple[Topology, QuestionRuntime, frozenset[str]], batch_size: int
) -> None:
    of, runtime, bad = case
    answers, failures = run_all(runtime, of, make_questions(8), batch_size=batch_size, max_attempts=9)
    assert {one.id for one in failures} == bad
    assert sorted(answers) == sorted({f"q{index}" for index in range(8)} - bad)
    last = of.answering_agent.name
    for name, answer in answers.items():
        assert answer.answer.startswith(f"{last} on {name} among ")
        assert list(answer.agents) == [one.name for one in of.agents]
        texts = {one.name: answer.agents[one.name].text for one in of.agents if one.thinks == "text"}
        assert all(text is not None and text.startswith(f"{by} on {name} ") for by, text in texts.items() if by != last)


def test_parallel_branches_need_all_their_results() -> None:
    runtime = ragged(reported_after=lambda work: 6.0 if work.agent == "code" else 0.0, writes_at_once={"summariser": 9})
    answers, _ = run_all(runtime, PARALLEL, make_questions(4), batch_size=4)
    assert {len(answer.agents) for answer in answers.values()} == {4}


@pytest.mark.parametrize(
    ("names", "writes_at_once", "settings", "expected"),
    [
        ("thinker judger", {}, {}, None),  # batches count
        ("thinker judger", {"judger": 8}, {}, 4 + 8 + 4),
        ("thinker judger", {"judger": 8}, {"replicas": 2}, 2 * 4 + 8 + 4),
        ("thinker judger", {"judger": 8}, {"decode_batch": 5}, 4 + 5 + 4),
        ("thinker judger", {"judger": 16}, {"decode_batch": 5, "replicas": 2}, 8 + 10 + 4),
        ("thinker judger", {"judger": 2}, {}, 4 + 4 + 4),  # a batch is submitted as a whole
        ("planner judger", {"planner": 8, "judger": 8}, {}, 8 + 8 + 4),
        ("planner judger", {"planner": 8, "judger": 8}, {"is_colocated": True}, 8 + 4),  # the same places
        ("thinker judger", {"judger": 8}, {"max_batches_in_flight": 1}, None),
    ],
)
def test_so_many_questions_keep_all_agents_busy(
    names: str, writes_at_once: dict[str, int], settings: dict[str, int], expected: int | None
) -> None:
    agents = [agent(name) for name in names.split()]
    assert DriverSettings(**settings).questions_in_flight(agents, writes_at_once, batch_size=4) == expected  # type: ignore[arg-type]
