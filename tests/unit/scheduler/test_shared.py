"""Several callers on one scheduler: each gets its own results, whatever happens to the others."""

import asyncio
import gc
import threading
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import pytest

from latentmas_ray.engine.turn import TurnRequest
from latentmas_ray.errors import ActorError, InputError, RunError, TopologyError, TurnError
from latentmas_ray.runs.results import Answer, Failure
from latentmas_ray.scheduler.batch import Batch, plan_batches
from latentmas_ray.scheduler.protocol import Event, TurnHandle
from latentmas_ray.tasks.question import Question
from latentmas_ray.topology import Topology
from tests.cases.fake_runtime import FakeRuntime
from tests.cases.scheduler import CHAIN, PARALLEL, SINGLE, Driver, Recorder, agent, make_driver, topology

NUM_THREADS = 8
PATIENCE_SECONDS = 60.0


@dataclass
class OneThreadAtATime(FakeRuntime):
    """Records its threads, and whether two of them used it at the same time."""

    inside: threading.Lock = field(default_factory=threading.Lock)
    threads: set[int] = field(default_factory=set)

    def submit(self, work: TurnRequest, segments: Mapping[str, Any]) -> TurnHandle:
        return self._alone(lambda: FakeRuntime.submit(self, work, segments))

    def poll(self, timeout_seconds: float) -> list[Event]:
        return self._alone(lambda: FakeRuntime.poll(self, timeout_seconds))

    def _alone(self, do: Callable[[], Any]) -> Any:
        assert self.inside.acquire(blocking=False), "two threads drive at one time"
        try:
            self.threads.add(threading.get_ident())
            return do()
        finally:
            self.inside.release()


def questions_of(caller: int, count: int) -> list[Question]:
    return [
        Question(id=f"c{caller}-q{number}", question=f"{caller}: {number}?", kind="text", gold=None, record={})
        for number in range(count)
    ]


def batches_of(caller: int, count: int, batch_size: int = 2) -> list[Batch]:
    return plan_batches(questions_of(caller, count), batch_size)


def in_threads(*jobs: Callable[[], Any]) -> list[Any]:
    """Start all jobs at the same time; return what each returned or raised."""
    results: list[Any] = [None] * len(jobs)
    start = threading.Barrier(len(jobs))

    def work(index: int) -> None:
        start.wait(PATIENCE_SECONDS)
        try:
            results[index] = jobs[index]()
        except BaseException as error:  # noqa: BLE001  the test checks it
            results[index] = error

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive()
    return results


def texts(results: Sequence[Any]) -> dict[str, str]:
    assert all(isinstance(result, Answer) for result in results)
    return {result.id: result.answer for result in results}


@pytest.mark.parametrize("of", [CHAIN, PARALLEL, SINGLE], ids=["chain", "parallel", "single"])
def test_threads_get_their_own_answers_and_those_they_would_get_alone(of: Topology) -> None:
    runtime = OneThreadAtATime()
    driver = make_driver(runtime, of)
    together = in_threads(
        *[lambda caller=caller: list(driver.run(batches_of(caller, 25))) for caller in range(NUM_THREADS)]
    )
    for caller, results in enumerate(together):
        alone = list(make_driver(FakeRuntime(), of).run(batches_of(caller, 25)))
        assert texts(results) == texts(alone)
    assert not runtime.handles
    assert not runtime.segments
    assert not driver.scheduler.is_busy


def test_a_single_caller_runs_everything_in_its_own_thread() -> None:
    runtime = OneThreadAtATime()
    list(make_driver(runtime, CHAIN).run(batches_of(0, 6)))
    assert runtime.threads == {threading.get_ident()}


def test_a_late_caller_does_not_wait_for_all_of_an_early_one() -> None:
    driver = make_driver(FakeRuntime(), CHAIN)
    early = driver.run(batches_of(0, 200))
    next(early)
    (late,) = driver.run(batches_of(1, 1))
    assert late.id == "c1-q0"
    assert len(list(early)) == 199
    early.close()


def test_a_run_within_the_loop_over_another() -> None:
    driver = make_driver(FakeRuntime(), CHAIN)
    for outer in driver.run(batches_of(0, 6)):
        (inner,) = driver.run(batches_of(int(outer.id[-1]) + 1, 1))
        assert inner.id == f"c{int(outer.id[-1]) + 1}-q0"


def test_a_caller_that_leaves_cancels_only_its_own_turns() -> None:
    runtime = FakeRuntime()
    driver = make_driver(runtime, CHAIN)
    stays = driver.run(batches_of(0, 20))
    next(stays)
    with closing(driver.run(batches_of(1, 20))) as leaves:
        next(leaves)
    assert len(list(stays)) == 19
    assert not runtime.handles
    assert sum(name.startswith("c1") for event in runtime.turns_of("judger") for name in event.question_ids) < 20


def test_an_abandoned_loop_ends_its_run() -> None:
    runtime = FakeRuntime()
    driver = make_driver(runtime, CHAIN)
    forgotten = driver.run(batches_of(0, 20))
    next(forgotten)
    del forgotten
    gc.collect()
    assert not runtime.handles
    assert not driver.scheduler.is_busy


def test_one_callers_mistake_affects_no_other() -> None:
    """A prompt that cannot be rendered, for one question of one caller."""
    of = topology(
        agent("planner", prompt="{{ question }}{{ record.number + 1 }}"), agent("judger", "planner", thinks="text")
    )
    driver = make_driver(FakeRuntime(), of)
    good = [Question(id=f"g{n}", question="?", kind="text", gold=None, record={"number": n}) for n in range(8)]
    bad = Question(id="bad", question="?", kind="text", gold=None, record={"number": "no number"})
    results = in_threads(
        lambda: list(driver.run(plan_batches(good, 1))), lambda: list(driver.run(plan_batches([bad], 1)))
    )
    assert len(texts(results[0])) == 8
    assert isinstance(results[1], TopologyError)


def test_one_callers_failed_question_affects_no_other() -> None:
    runtime = FakeRuntime(failure=lambda work: TurnError("no") if "c1-q0" in work.question_ids else None)
    driver = make_driver(runtime, CHAIN)
    results = in_threads(lambda: list(driver.run(batches_of(0, 6))), lambda: list(driver.run(batches_of(1, 6))))
    assert len(texts(results[0])) == 6
    assert [result.id for result in results[1] if isinstance(result, Failure)] == ["c1-q0"]


def test_lost_actors_end_the_runs_of_all_callers() -> None:
    def give_up(runtime: FakeRuntime) -> None:
        if runtime.now > 3:
            raise ActorError("no more of them")

    runtime = FakeRuntime(on_wait=give_up)
    driver = make_driver(runtime, CHAIN)
    results = in_threads(*[lambda caller=caller: list(driver.run(batches_of(caller, 20))) for caller in range(3)])
    assert all(isinstance(result, ActorError) for result in results)
    del results
    gc.collect()  # a stored error refers to the frames of its thread
    assert not runtime.handles


def test_ctrl_c_in_one_thread_affects_no_other() -> None:
    """It interrupts a step at any point."""
    runtime = FakeRuntime()
    driver = make_driver(runtime, CHAIN)
    goes_on = driver.run(batches_of(0, 20))
    before = [next(goes_on)]
    is_interrupted = False

    def interrupt(runtime: FakeRuntime) -> None:
        nonlocal is_interrupted
        if not is_interrupted:
            is_interrupted = True
            raise KeyboardInterrupt

    runtime.on_wait = interrupt
    with pytest.raises(KeyboardInterrupt):
        list(driver.run(batches_of(1, 20)))
    answers = texts([*before, *goes_on])
    assert set(answers) == {f"c0-q{number}" for number in range(20)}
    assert not runtime.handles
    assert not driver.scheduler.is_busy


def test_closing_ends_every_run_with_the_reason() -> None:
    driver = make_driver(FakeRuntime(), CHAIN)
    runs = [driver.run(batches_of(caller, 20)) for caller in range(2)]
    for run in runs:
        next(run)
    driver.scheduler.close(RunError("it was closed"))
    for run in runs:
        with pytest.raises(RunError, match="it was closed"):
            list(run)
    with pytest.raises(RunError, match="it was closed"):
        list(driver.run(batches_of(2, 1)))


def test_observers_get_only_events_of_their_own_run() -> None:
    runtime = FakeRuntime()
    driver = make_driver(runtime, CHAIN)
    recorders = [Recorder() for _ in range(3)]

    def run(caller: int) -> list[Any]:
        own = driver.request(batches_of(caller, 4 + caller))
        return list(driver.scheduler.run(Driver.observed(own, recorders[caller])))

    in_threads(*[lambda caller=caller: run(caller) for caller in range(3)])
    for caller, recorder in enumerate(recorders):
        assert recorder.started == ("fake", 4 + caller, 0)
        assert {answer.id for answer in recorder.answers} == {f"c{caller}-q{n}" for n in range(4 + caller)}
        assert recorder.times_finished == 1
        assert max((one.num_done for one in recorder.progress), default=0) <= 4 + caller


async def gathered(results: AsyncGenerator[Any, None]) -> list[Any]:
    return [result async for result in results]


def test_event_loop_and_threads_at_one_time() -> None:
    runtime = OneThreadAtATime()
    driver = make_driver(runtime, CHAIN)

    async def ask() -> list[list[Any]]:
        jobs = [gathered(driver.scheduler.arun(driver.request(batches_of(caller, 10)))) for caller in range(8)]
        return await asyncio.gather(*jobs)

    *in_loop, in_thread = in_threads(lambda: asyncio.run(ask()), lambda: list(driver.run(batches_of(9, 10))))
    for caller, results in enumerate([*in_loop[0]]):
        assert texts(results) == texts(list(make_driver(FakeRuntime(), CHAIN).run(batches_of(caller, 10))))
    assert len(texts(in_thread)) == 10
    assert not runtime.handles


def test_waiting_does_not_block_the_event_loop() -> None:
    pause = threading.Event()
    runtime = FakeRuntime(on_wait=lambda runtime: pause.wait(PATIENCE_SECONDS) and None)
    driver = make_driver(runtime, SINGLE)

    async def ask() -> None:
        answer = asyncio.ensure_future(gathered(driver.scheduler.arun(driver.request(batches_of(0, 1)))))
        for _ in range(5):
            await asyncio.sleep(0.01)
        assert not answer.done()
        pause.set()
        assert len(await answer) == 1

    asyncio.run(ask())


def test_a_cancelled_task_cancels_its_questions() -> None:
    pause = threading.Event()
    runtime = FakeRuntime(on_wait=lambda runtime: pause.wait(PATIENCE_SECONDS) and None)
    driver = make_driver(runtime, CHAIN)

    async def ask() -> None:
        answer = asyncio.ensure_future(gathered(driver.scheduler.arun(driver.request(batches_of(0, 20)))))
        while not runtime.turns:
            await asyncio.sleep(0.01)
        answer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await answer
        pause.set()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while driver.scheduler.is_busy:
                await asyncio.sleep(0.01)

    asyncio.run(ask())
    assert not runtime.handles
    assert not [thread for thread in threading.enumerate() if thread.name == "scheduler" and not thread.daemon]


def test_errors_reach_the_event_loop() -> None:
    driver = make_driver(FakeRuntime(failure=lambda work: TurnInputError()), CHAIN)

    async def ask() -> None:
        await gathered(driver.scheduler.arun(driver.request(batches_of(0, 2))))

    with pytest.raises(InputError, match="model"):
        asyncio.run(ask())


class TurnInputError(InputError):
    def __init__(self) -> None:
        super().__init__("model", "tiny", "another one")

    def __copy__(self) -> "TurnInputError":
        return TurnInputError()
