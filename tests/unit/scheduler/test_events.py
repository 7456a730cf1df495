"""Events of a runtime and their listeners."""

import gc
import sys
from typing import Any

from benchmarks.scaling.timer_runner import TimerRunner
from latentmas_ray.actors import LocalRuntime
from latentmas_ray.engine.turn import Sampling, TurnRequest, TurnResult
from latentmas_ray.errors import TurnError
from latentmas_ray.runs.results import Answer
from latentmas_ray.runs.run_events import NodeJoined, ReplicaLost, RunEvent
from latentmas_ray.scheduler.batch import plan_batches
from latentmas_ray.scheduler.loop import Scheduler
from latentmas_ray.scheduler.protocol import (
    CapacityChanged,
    Event,
    QuestionDone,
    TokensWritten,
    TurnDone,
    TurnFailed,
    TurnHandle,
    events_of_result,
    without_frames,
)
from latentmas_ray.scheduler.run import RunRequest
from latentmas_ray.scheduler.shared import SharedScheduler
from latentmas_ray.scheduler.turns import DriverSettings
from latentmas_ray.transport import Loopback
from tests.cases.fake_runtime import FakeRuntime
from tests.cases.scheduler import CHAIN, make_questions


def test_tokens_come_before_the_result_and_questions_after_it() -> None:
    handle = TurnHandle("judger", None, None, ("q0", "q1"), is_last=True)
    result = TurnResult(agent="judger", prompt_tokens=(1, 1), output_token_ids=((5,), (5, 6)))
    events = events_of_result(handle, result)
    assert [type(event) for event in events] == [TokensWritten, TokensWritten, TurnDone, QuestionDone, QuestionDone]
    assert [event.num_tokens for event in events if isinstance(event, TokensWritten)] == [1, 2]
    rest = events_of_result(handle, result, {"q1"})
    assert [getattr(event, "question_id", None) for event in rest] == ["q1", None, "q1"]


def test_an_agent_that_is_read_finishes_no_question() -> None:
    handle = TurnHandle("planner", None, None, ("q0",))
    assert len(events_of_result(handle, TurnResult(agent="planner", prompt_tokens=(1,)))) == 1


def test_a_runtime_reports_every_question_of_a_run() -> None:
    heard: list[Event] = []

    class Recorded(FakeRuntime):
        def poll(self, timeout_seconds: float) -> list[Event]:
            events = super().poll(timeout_seconds)
            heard.extend(events)
            return events

    runtime = Recorded()
    scheduler = Scheduler(runtime, info=runtime.start(), clock=runtime.clock)
    request = RunRequest(topology=CHAIN, settings=DriverSettings(), batches=plan_batches(make_questions(5), 2))
    answers = [one for one in SharedScheduler(scheduler).run(request) if isinstance(one, Answer)]
    assert sorted(event.question_id for event in heard if isinstance(event, QuestionDone)) == sorted(
        answer.id for answer in answers
    )
    written = {event.question_id: event.num_tokens for event in heard if isinstance(event, TokensWritten)}
    assert written == {answer.id: len(answer.answer_token_ids) for answer in answers}
    assert sum(isinstance(event, TurnDone) for event in heard) == 3 * 3


def test_the_observer_of_a_run_learns_of_replicas_and_nodes() -> None:
    lost, joined = ReplicaLost(("planner",), ("near",), "it died"), NodeJoined("far")

    class Changing(FakeRuntime):
        def poll(self, timeout_seconds: float) -> list[Event]:
            changes: list[Event] = [lost, joined] if self.polled == 0 else []
            self.polled += 1
            return [*changes, *super().poll(timeout_seconds)]

        polled = 0

    class Listener:
        def on_event(self, event: RunEvent) -> None:
            heard.append(event)

    runtime, heard = Changing(), list[RunEvent]()
    scheduler = Scheduler(runtime, info=runtime.start(), clock=runtime.clock)
    batches = plan_batches(make_questions(2), 2)
    request = RunRequest(topology=CHAIN, settings=DriverSettings(), batches=batches, observer=Listener())
    assert len(list(SharedScheduler(scheduler).run(request))) == 2
    assert [event for event in heard if isinstance(event, ReplicaLost | NodeJoined)] == [lost, joined]


def test_more_replicas_have_more_batches_in_flight() -> None:
    """In the run that is active, and in those that start later."""
    runtime = FakeRuntime()
    scheduler = Scheduler(runtime, info=runtime.start(), clock=runtime.clock)
    batches = plan_batches(make_questions(40), 2)
    run = scheduler.start_run(RunRequest(topology=CHAIN, settings=DriverSettings(), batches=batches))
    scheduler.step()
    before = run.max_batches_in_flight
    polls = runtime.poll
    changes: list[Event] = [CapacityChanged(3, {})]
    runtime.poll = lambda seconds: [*changes, *polls(seconds)]  # type: ignore[method-assign]
    scheduler.step()
    assert (before, run.max_batches_in_flight) == (4, 10)


def test_an_error_without_frames_keeps_its_causes_and_no_objects() -> None:
    class Seen:
        """Counts its references."""

    seen = Seen()

    def fail(thing: Any) -> None:
        raise KeyError("deep")

    def translate(thing: Any) -> None:
        try:
            fail(thing)
        except KeyError as error:
            raise TurnError("it fell over") from error

    gc.collect()
    before = sys.getrefcount(seen)
    kept: list[Exception] = []
    try:
        translate(seen)
    except TurnError as error:
        kept.append(without_frames(error))
    assert isinstance(kept[0].__cause__, KeyError)
    assert sys.getrefcount(seen) == before


def test_turns_of_this_process_are_reported_once_and_not_if_cancelled() -> None:
    runtime = LocalRuntime(TimerRunner, Loopback())
    runtime.start()

    def submit(prompts: tuple[Any, ...] = ()) -> TurnHandle:
        work = TurnRequest(
            agent="a", batch=0, question_ids=("q",), prompts=prompts, thinks="text", sampling=Sampling(), is_last=True
        )
        return runtime.submit(work, {})

    cancelled, failed = submit(), submit()
    runtime.cancel([cancelled])
    events = runtime.poll(0.0)
    assert [type(event) for event in events] == [TurnFailed]  # a turn without a prompt
    assert all(getattr(event, "handle", None) is failed for event in events)
    assert runtime.poll(0.0) == []
    runtime.close()
