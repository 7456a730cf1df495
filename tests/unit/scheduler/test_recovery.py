"""Batches whose actors die and whose segments are lost: lost turns are submitted again, from the segments left."""

from collections import Counter
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentmas_ray.engine.turn import TurnRequest
from latentmas_ray.errors import ActorError, TurnError, TurnLostError
from latentmas_ray.runs.results import Failure
from latentmas_ray.scheduler.batch import plan_batches
from latentmas_ray.scheduler.protocol import TurnHandle
from latentmas_ray.topology.agent import Topology
from tests.cases.fake_runtime import FakeRuntime, FakeSegment
from tests.cases.scheduler import (
    ALL,
    CHAIN,
    DIAMOND,
    MIXED,
    PARALLEL,
    SINGLE,
    Recorder,
    agent,
    drain,
    make_driver,
    make_questions,
    run_all,
    topology,
)

Faults = Mapping[
    tuple[str, int], frozenset[str]
]  # by agent and batch: the agents whose segments are lost with its first turn


def breaking(faults: Faults) -> FakeRuntime:
    """A runtime that loses these turns once, together with segments of some agents."""
    left = dict(faults)

    def failure(work: TurnRequest) -> Exception | None:
        gone = left.pop((work.agent, work.batch), None)
        if gone is None:
            return None
        runtime.gone.update(segment for segment in runtime.segments if segment.work.agent in gone)
        return TurnLostError(f"the actor of agent {work.agent} died", lacks_memory=False)

    runtime = FakeRuntime(failure=failure)
    return runtime


def turns_of(runtime: FakeRuntime, batch: int) -> dict[str, int]:
    return dict(Counter(work.agent for work in runtime.works if work.batch == batch))


def test_only_the_lost_turn_runs_again() -> None:
    runtime = breaking({("judger", 1): frozenset()})
    answers, failures = run_all(runtime, CHAIN, make_questions(6))
    assert (len(answers), failures) == (6, [])
    assert turns_of(runtime, 1) == {"planner": 1, "critic": 1, "judger": 2}
    assert answers["q2"].answer.endswith("among q2 q3")


def test_unfinished_readers_of_a_lost_turn_run_again() -> None:
    runtime = breaking({("critic", 1): frozenset()})
    answers, failures = run_all(runtime, CHAIN, make_questions(6))
    assert (len(answers), failures) == (6, [])
    assert turns_of(runtime, 1) == {"planner": 1, "critic": 2, "judger": 2}


def test_only_lost_segments_are_computed_again() -> None:
    runtime = breaking({("end", 0): frozenset({"left"})})
    answers, failures = run_all(runtime, DIAMOND, make_questions(2))
    assert (len(answers), failures) == (2, [])
    assert turns_of(runtime, 0) == {"root": 1, "left": 2, "right": 1, "end": 2}


def test_finished_texts_are_not_written_again() -> None:
    runtime = breaking({("planner", 0): frozenset({"thinker"})})
    answers, failures = run_all(runtime, MIXED, make_questions(2))
    assert (len(answers), failures) == (2, [])
    assert turns_of(runtime, 0) == {"scout": 1, "thinker": 2, "planner": 2, "judger": 2}


def test_all_segments_are_computed_again_if_the_lost_one_is_unknown() -> None:
    armed = [True]

    def failure(work: TurnRequest) -> Exception | None:
        if work.agent == "judger" and armed.pop() if armed else False:
            return TurnLostError("a segment did not come")
        return None

    runtime = FakeRuntime(failure=failure)
    answers, failures = run_all(runtime, CHAIN, make_questions(2))
    assert (len(answers), failures) == (2, [])
    assert turns_of(runtime, 0) == {"planner": 2, "critic": 2, "judger": 2}


def test_a_question_that_kills_its_actor_fails_alone() -> None:
    def failure(work: TurnRequest) -> Exception | None:
        is_poisoned = work.agent == "critic" and "q2" in work.question_ids
        return TurnLostError("it died", lacks_memory=False) if is_poisoned else None

    runtime, recorder = FakeRuntime(failure=failure), Recorder()
    driver = make_driver(runtime, CHAIN, recorder, max_losses=2)
    results = {result.id: result for result in driver.run(plan_batches(make_questions(6), 2))}
    assert results.pop("q2") == Failure(id="q2", agent="critic", error="it died")
    assert sorted(results) == ["q0", "q1", "q3", "q4", "q5"]
    assert not any(isinstance(result, Failure) for result in results.values())
    tried = Counter(work.question_ids for work in runtime.works if work.agent == "critic")
    assert (tried["q2", "q3"], tried["q2",]) == (3, 2)
    assert len(recorder.faults) == 4
    assert not runtime.handles


def test_a_batch_that_is_suspected_wrongly_loses_no_question() -> None:
    """An actor that writes several turns at the same time: all are lost with it, and an innocent one is suspected."""

    def failure(work: TurnRequest) -> Exception | None:
        pending = [handle for handle in runtime.handles if handle.turn.finishes_at > runtime.now]
        others = [handle for handle in pending if handle.agent == work.agent == "judger"]
        is_culprit = work.agent == "judger" and "q2" in work.question_ids
        if not is_culprit and not any("q2" in handle.question_ids for handle in others):
            return None
        return TurnLostError("it died", lacks_memory=False, is_suspect=not (is_culprit and others))

    runtime = FakeRuntime(failure=failure)
    driver = make_driver(runtime, CHAIN, max_losses=2, max_batches_in_flight=8)
    results = {result.id: result for result in driver.run(plan_batches(make_questions(8), 2))}
    assert results.pop("q2") == Failure(id="q2", agent="judger", error="it died")
    assert not any(isinstance(result, Failure) for result in results.values())
    assert len(results) == 7


def test_turns_lost_together_count_once_whichever_is_the_suspect() -> None:
    """Agents of one actor lose their turns at the same time, and one of them may be the cause every time."""

    def failure(work: TurnRequest) -> Exception | None:
        if work.agent in ("math", "code"):
            return TurnLostError("it died", lacks_memory=False, is_suspect=work.agent == "code")
        return None

    runtime = FakeRuntime(failure=failure)
    answers, failures = run_all(runtime, PARALLEL, make_questions(1))
    assert not answers
    assert [one.id for one in failures] == ["q0"]
    assert len([work for work in runtime.works if work.agent == "code"]) < 10


def test_a_last_attempt_survives_the_loss_of_an_actor_and_then_of_memory() -> None:
    to_come = [TurnError("no room"), TurnLostError("its actor died", lacks_memory=False)]

    def failure(work: TurnRequest) -> Exception | None:
        if work.agent != "judger" or not to_come:
            return None
        runtime.gone.update(runtime.segments)
        return to_come.pop(0)

    runtime = FakeRuntime(failure=failure, reports_losses=False)
    answers, failures = run_all(runtime, CHAIN, make_questions(2))
    assert (len(answers), failures) == (2, [])


def test_memory_that_is_always_lost_fails_the_question() -> None:
    def failure(work: TurnRequest) -> Exception | None:
        return TurnLostError("a segment did not come") if work.agent == "critic" else None

    runtime = FakeRuntime(failure=failure)
    answers, failures = run_all(runtime, CHAIN, make_questions(2))
    assert (answers, [one.error for one in failures]) == ({}, ["a segment did not come"] * 2)
    tried = Counter(work.question_ids for work in runtime.works if work.agent == "critic")
    assert tried == {("q0", "q1"): 4, ("q0",): 2, ("q1",): 2}


def test_a_run_reports_a_question_that_it_tries_again_alone_after_losses() -> None:
    def failure(work: TurnRequest) -> Exception | None:
        return TurnLostError("it died", lacks_memory=False) if len(work.question_ids) > 1 else None

    recorder = Recorder()
    results = list(make_driver(FakeRuntime(failure=failure), SINGLE, recorder).run(plan_batches(make_questions(2), 2)))
    assert not any(isinstance(result, Failure) for result in results)
    assert len(recorder.faults) == 4


def test_a_batch_without_a_suspect_never_fails() -> None:
    deaths = [0]

    def failure(work: TurnRequest) -> Exception | None:
        if work.agent == "critic" and work.batch == 0 and deaths[0] < 20:
            deaths[0] += 1
            return TurnLostError("its actor died of another batch", lacks_memory=False, is_suspect=False)
        return None

    answers, failures = run_all(FakeRuntime(failure=failure), CHAIN, make_questions(4))
    assert (len(answers), failures) == (4, [])
    assert answers["q0"].answer.endswith("among q0 q1")


def test_actors_that_cannot_be_replaced_end_the_run() -> None:
    def give_up(runtime: FakeRuntime) -> None:
        if runtime.now >= 4:
            raise ActorError("no more of them")

    runtime = FakeRuntime(on_wait=give_up)
    ids: list[str] = []
    with pytest.raises(ActorError, match="no more of them"):
        drain(make_driver(runtime, CHAIN).run(plan_batches(make_questions(40), 2)), ids)
    assert ids == ["q0", "q1", "q2", "q3"]
    assert not runtime.segments


@st.composite
def disturbed(draw: st.DrawFn) -> tuple[Topology, Faults]:
    topology = ALL[draw(st.sampled_from(sorted(ALL)))]
    names = [agent.name for agent in topology.agents]
    turns = st.tuples(st.sampled_from(names), st.integers(0, 3))
    faults = draw(st.dictionaries(turns, st.frozensets(st.sampled_from(names)), max_size=8))
    return topology, faults


@given(case=disturbed(), in_flight=st.sampled_from([1, 2, None]), is_synchronous=st.booleans())
def test_any_losses_leave_the_answers_of_an_uninterrupted_run(
    case: tuple[Topology, Faults], in_flight: int | None, is_synchronous: bool
) -> None:
    topology, faults = case
    runtime = breaking(faults)
    runtime.is_synchronous = is_synchronous
    settings = {"max_batches_in_flight": in_flight, "max_losses": 20}
    answers, failures = run_all(runtime, topology, make_questions(8), **settings)
    undisturbed, _ = run_all(FakeRuntime(), topology, make_questions(8))
    assert not failures
    assert {name: answer.answer for name, answer in answers.items()} == {
        name: answer.answer for name, answer in undisturbed.items()
    }


class SilentNode(FakeRuntime):
    """An agent's actor is dead until it is missed. An agent that reads its memory finds out earlier."""

    def __init__(self, of: str, missed_at: float = 12.0, dies_with: str | None = None) -> None:
        """With `dies_with` it dies at that agent's first turn, which is lost, with all memory that there is."""
        super().__init__(seconds=self._seconds, failure=self._failure, reports_losses=False)
        self.of, self.missed_at, self.dies_with = of, missed_at, dies_with

    def _is_dead(self, work: TurnRequest) -> bool:
        return work.agent == self.of and self.now < self.missed_at and self.dies_with is None

    def _seconds(self, work: TurnRequest) -> float:
        return self.missed_at - self.now if self._is_dead(work) else 1.0

    def _failure(self, work: TurnRequest) -> Exception | None:
        if work.agent == self.dies_with:
            self.dies_with = None
            self.gone.update(self.segments)
            return TurnLostError("its connection was closed", lacks_memory=False)
        if self._is_dead(work):
            return TurnLostError("its node is lost", lacks_memory=False)
        return None

    def submit(self, work: TurnRequest, segments: Mapping[str, FakeSegment]) -> TurnHandle:
        handle = super().submit(work, segments)
        if any(segment.error is not None for segment in segments.values()):
            handle.turn.error = TurnLostError("The actor died unexpectedly before finishing this task")
            handle.turn.finishes_at = self.now + 0.5
        return handle


def test_a_reader_that_finds_a_dead_writer_waits_until_it_is_missed() -> None:
    """It does not use up its attempts meanwhile, nor are the turns repeated that have results."""
    runtime = SilentNode(of="critic")
    answers, failures = run_all(runtime, CHAIN, make_questions(6))
    assert (len(answers), failures) == (6, [])
    assert turns_of(runtime, 0) == {"planner": 1, "critic": 2, "judger": 2}


def test_readers_that_find_a_lost_node_one_after_another_do_not_split_their_batch() -> None:
    """The last agent's actor is missed at once, the first one's later; those between read from its node meanwhile."""
    chain = topology(
        agent("planner"),
        agent("critic", "planner"),
        agent("refiner", "planner", "critic"),
        agent("judger", "planner", "critic", "refiner", thinks="text"),
    )
    runtime = SilentNode(of="planner", missed_at=30.0, dies_with="judger")
    answers, failures = run_all(runtime, chain, make_questions(2))
    assert failures == []
    assert answers["q0"].answer.endswith("among q0 q1")
