"""When turns are submitted, how batches overlap, and when memory is freed."""

from contextlib import closing
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentmas_ray.engine.turn import TurnRequest
from latentmas_ray.errors import TurnError
from latentmas_ray.scheduler.batch import plan_batches
from latentmas_ray.topology.agent import Topology
from tests.cases.fake_runtime import FakeRuntime
from tests.cases.scheduler import (
    ALL,
    CHAIN,
    DIAMOND,
    MIXED,
    PARALLEL,
    TALK,
    Recorder,
    agent,
    make_driver,
    make_questions,
    run_all,
    topology,
)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("is_synchronous", [False, True])
def test_every_question_of_every_topology_gets_its_answer(name: str, is_synchronous: bool) -> None:
    runtime = FakeRuntime(is_synchronous=is_synchronous)
    answers, failures = run_all(runtime, ALL[name], make_questions(7))
    assert not failures
    assert sorted(answers) == [f"q{index}" for index in range(7)]
    assert len(runtime.turns) == 4 * len(ALL[name].agents)
    assert answers["q6"].answer.endswith("on q6 among q6")
    assert not runtime.cancelled


def test_a_latent_chain_is_submitted_at_once() -> None:
    runtime = FakeRuntime()
    run_all(runtime, CHAIN, make_questions(2))
    assert [event.submitted_at for event in runtime.turns] == [0.0, 0.0, 0.0]


def test_batches_flow_through_the_chain_like_through_a_pipeline() -> None:
    runtime = FakeRuntime()
    run_all(runtime, CHAIN, make_questions(20))
    for earlier, later in zip(runtime.turns_of("critic"), runtime.turns_of("planner")[1:], strict=False):
        assert later.started_at < earlier.finished_at
    assert runtime.now == pytest.approx(10 + 2)  # the stages of a full pipeline, not 10 × 3


def test_the_first_agent_never_waits_for_an_admission() -> None:
    runtime = FakeRuntime()
    run_all(runtime, CHAIN, make_questions(40))
    planner = runtime.turns_of("planner")
    assert all(earlier.finished_at == later.started_at for earlier, later in pairwise(planner))


def test_replicas_allow_more_batches_in_flight() -> None:
    recorder = Recorder()
    list(make_driver(FakeRuntime(), CHAIN, recorder, replicas=3).run(plan_batches(make_questions(40), 2)))
    assert max(progress.batches_in_flight for progress in recorder.progress) == 10


def test_parallel_branches_run_at_the_same_time() -> None:
    runtime = FakeRuntime()
    run_all(runtime, PARALLEL, make_questions(2))
    assert {runtime.turns_of(name)[0].started_at for name in ("math", "code", "science")} == {0.0}
    assert runtime.now == pytest.approx(2.0)
    *_, summariser = runtime.works
    assert summariser.segment_order() == ("math", "code", "science")


def test_a_diamond_hands_over_every_segment_once() -> None:
    runtime = FakeRuntime()
    answers, _ = run_all(runtime, DIAMOND, make_questions(2))
    end = next(work for work in runtime.works if work.agent == "end")
    assert end.segment_order() == ("root", "left", "right")
    assert [(transfer.source, transfer.reader) for transfer in answers["q0"].transfers] == [
        ("root", "left"),
        ("root", "right"),
        ("root", "end"),
        ("left", "end"),
        ("right", "end"),
    ]


def test_text_agents_run_one_by_one_with_texts_in_their_prompts() -> None:
    runtime = FakeRuntime()
    run_all(runtime, TALK, make_questions(2))
    submitted = {event.agent: event.submitted_at for event in runtime.turns}
    assert submitted == {"planner": 0.0, "critic": 1.0, "judger": 2.0}
    judger = runtime.works[-1]
    content = judger.prompts[1].messages[-1]["content"]
    assert "planner on q1" in content
    assert content.index("planner on q1") < content.index("critic on q1")
    assert "on q0" not in content.replace("among q0", "")


def test_text_and_latent_agents_mix() -> None:
    runtime = FakeRuntime()
    run_all(runtime, MIXED, make_questions(2), latent_steps=7)
    by_agent = {work.agent: work for work in runtime.works}
    assert by_agent["planner"].segment_order() == ("thinker",)
    assert "scout on q0" in by_agent["judger"].prompts[0].messages[-1]["content"]
    assert by_agent["judger"].segment_order() == ("thinker", "planner")
    assert {name: work.latent_steps for name, work in by_agent.items()} == {
        "scout": 0,
        "thinker": 7,
        "planner": 7,
        "judger": 0,
    }


def test_a_segment_is_dropped_when_its_last_reader_is_done() -> None:
    """The text agent reads memory and writes text, so while the judger runs no memory is needed."""
    alive: dict[float, set[str]] = {}

    def look(runtime: FakeRuntime) -> None:
        alive[runtime.now] = {segment.work.agent for segment in runtime.segments}

    relay = topology(
        agent("thinker"),
        agent("second", "thinker"),
        agent("writer", "second", thinks="text"),
        agent("judger", "writer", thinks="text"),
    )
    run_all(FakeRuntime(on_wait=look), relay, make_questions(2))
    assert alive[2.0] == {"thinker", "second"}
    assert alive[3.0] == set()


@pytest.mark.parametrize("name", ALL)
def test_live_handles_are_bounded(name: str) -> None:
    most = 0

    def look(runtime: FakeRuntime) -> None:
        nonlocal most
        most = max(most, len(runtime.handles))

    run_all(FakeRuntime(on_wait=look), ALL[name], make_questions(60))
    num_agents = len(ALL[name].agents)
    assert most <= num_agents * (num_agents + 1)


def test_a_synchronous_runtime_is_not_flooded() -> None:
    runtime = FakeRuntime(is_synchronous=True)
    with closing(make_driver(runtime, CHAIN).run(plan_batches(make_questions(12), 2))) as results:
        for count in range(1, 4):
            assert [next(results).id, next(results).id] == [f"q{2 * count - 2}", f"q{2 * count - 1}"]
            assert len(runtime.works) == 3 * count


def test_a_half_finished_batch_is_asked_whole_and_answered_in_part() -> None:
    runtime = FakeRuntime()
    recorder = Recorder()
    results = list(
        make_driver(runtime, CHAIN, recorder).run(plan_batches(make_questions(6), 3, {"q0", "q1", "q2", "q4"}))
    )
    assert [result.id for result in results] == ["q3", "q5"]
    assert [answer.id for answer in recorder.answers] == ["q3", "q5"]
    assert {work.question_ids for work in runtime.works} == {("q3", "q4", "q5")}


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 2000), min_size=1, max_size=24),
    batch_size=st.integers(1, 4),
    limit=st.integers(1, 120_000),
    name=st.sampled_from(sorted(ALL)),
    tokens_per_byte=st.sampled_from([0.25, 1.0]),
)
def test_memory_in_flight_stays_below_its_bound(
    sizes: list[int], batch_size: int, limit: int, name: str, tokens_per_byte: float
) -> None:
    """Except for one batch that is larger than the bound and runs alone."""
    runtime = FakeRuntime(tokens_per_byte=tokens_per_byte, memory_limit_bytes=limit)
    answers, _ = run_all(runtime, ALL[name], make_questions(len(sizes), sizes=sizes), batch_size=batch_size)
    assert len(answers) == len(sizes)
    assert runtime.peak_bytes <= limit


@st.composite
def topologies(draw: st.DrawFn) -> Topology:
    """Any DAG with one answering agent: every other agent is read by at least one later agent."""
    count = draw(st.integers(1, 6))
    reads: list[list[str]] = [[] for _ in range(count)]
    for index in range(count - 1):
        for reader in draw(st.sets(st.integers(index + 1, count - 1), min_size=1)):
            reads[reader].append(f"a{index}")
    kinds: list[str] = []
    for index in range(count):
        reads_text = any(kinds[int(name[1:])] == "text" for name in reads[index])
        is_text = index == count - 1 or reads_text or draw(st.booleans())
        kinds.append("text" if is_text else "latent")
    return topology(*(agent(f"a{index}", *reads[index], thinks=kinds[index]) for index in range(count)))


@settings(max_examples=60, deadline=None)
@given(
    made=topologies(),
    durations=st.lists(st.floats(0.0, 5.0), min_size=6, max_size=6),
    failing=st.sets(st.tuples(st.integers(0, 5), st.integers(0, 8)), max_size=3),
    is_synchronous=st.booleans(),
    limit=st.sampled_from([1, 10_000, 10**9]),
)
def test_any_topology_runs_whatever_fails(
    made: Topology, durations: list[float], failing: set[tuple[int, int]], is_synchronous: bool, limit: int
) -> None:
    """The fake runtime checks the segments of each turn, and `run_all` that no handle is left."""

    def failure(work: TurnRequest) -> Exception | None:
        bad = [f"q{question}" for member, question in failing if work.agent == f"a{member}"]
        return TurnError("no") if set(bad) & set(work.question_ids) else None

    runtime = FakeRuntime(
        seconds=lambda work: durations[int(work.agent[1:])],
        failure=failure,
        is_synchronous=is_synchronous,
        memory_limit_bytes=limit,
    )
    answers, failures = run_all(runtime, made, make_questions(9), batch_size=3)
    failed = {f"q{question}" for member, question in failing if member < len(made.agents)}
    assert {result.id for result in failures} == failed
    assert answers.keys() == {f"q{index}" for index in range(9)} - failed


def test_the_users_limit_overrides_the_runtimes() -> None:
    for limit, batches in ((1, 1), (10**9, 4)):
        recorder = Recorder()
        driver = make_driver(FakeRuntime(memory_limit_bytes=5), CHAIN, recorder, memory_limit_bytes=limit)
        list(driver.run(plan_batches(make_questions(20), 2)))
        assert max(progress.batches_in_flight for progress in recorder.progress) == batches


def test_progress_is_sent_while_nothing_finishes() -> None:
    recorder = Recorder()
    runtime = FakeRuntime(seconds=lambda work: 10.0)
    results = list(make_driver(runtime, CHAIN, recorder).run(plan_batches(make_questions(4), 2), num_done=3))
    assert recorder.started == ("fake", 7, 3)
    assert recorder.answers == results
    assert recorder.times_finished == 1
    assert len(recorder.progress) > 100
    assert max(later.seconds - earlier.seconds for earlier, later in pairwise(recorder.progress)) <= 0.25
    last = recorder.progress[-1]
    assert (last.num_questions, last.num_done, last.num_failed) == (7, 7, 0)
    assert (last.batches_in_flight, last.memory_in_flight_bytes) == (0, 0)
    assert last.tokens == sum(r.prompt_tokens + r.latent_tokens + r.output_tokens for r in recorder.answers)


def test_one_scheduler_can_run_several_times() -> None:
    runtime = FakeRuntime()
    driver = make_driver(runtime, CHAIN)
    first = list(driver.run(plan_batches(make_questions(3), 2)))
    second = list(driver.run(plan_batches(make_questions(3), 2)))
    assert [result.id for result in first] == [result.id for result in second]


def test_every_handle_is_released_once() -> None:
    """Also those of a batch that failed, and of its retries."""
    runtime = FakeRuntime(failure=lambda work: TurnError("no") if work.agent == "judger" and work.batch == 0 else None)
    run_all(runtime, CHAIN, make_questions(3), batch_size=2)
    assert sorted(runtime.freed) == sorted(event.agent for event in runtime.turns)
