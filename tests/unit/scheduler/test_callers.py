"""Callers of one scheduler never wait for ever, break the runs of others, or leave turns behind."""

import asyncio
import gc
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from types import FrameType
from typing import Any

import pytest

from latentmas_ray.errors import RunError
from latentmas_ray.runs.run_events import (
    QuestionAnswered,
    RunEnded,
    RunEvent,
    RunProgress,
    RunStarted,
    TurnFinished,
)
from latentmas_ray.scheduler.loop import Scheduler
from latentmas_ray.scheduler.run import RunRequest
from latentmas_ray.scheduler.turns import DriverSettings
from tests.cases.fake_runtime import FakeRuntime
from tests.cases.scheduler import CHAIN, Driver, Recorder, make_driver
from tests.unit.scheduler.test_shared import PATIENCE_SECONDS, batches_of, gathered, in_threads, texts

NUM_AGENTS = len(CHAIN.agents)
NUM_MANY = 2000  # questions: they take many seconds, of which a busy machine may keep one


@pytest.fixture(autouse=True)
def nothing_waits_for_ever() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(int(PATIENCE_SECONDS))
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def slow(seconds: float = 0.002) -> FakeRuntime:
    """Every step takes some time, like turns in this process."""
    return FakeRuntime(on_wait=lambda runtime: time.sleep(seconds))


def until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.005)


class Raises(Recorder):
    """An observer that raises on one kind of event."""

    def __init__(self, kind: type[RunEvent], error: type[BaseException]) -> None:
        super().__init__()
        self._kind, self._error = kind, error

    def on_event(self, event: RunEvent) -> None:
        if isinstance(event, self._kind):
            raise self._error("no")
        super().on_event(event)


def test_a_run_is_over_once_its_observer_knows_it() -> None:
    """Callers in other threads leave then, and close what observes the run."""

    class Looks(Recorder):
        was_over: bool | None = None

        def on_event(self, event: RunEvent) -> None:
            if isinstance(event, RunEnded):
                self.was_over = run.is_over

    observer, runtime = Looks(), FakeRuntime()
    scheduler = Scheduler(runtime, info=runtime.start(), clock=runtime.clock)
    settings = DriverSettings()
    run = scheduler.start_run(
        RunRequest(topology=CHAIN, settings=settings, batches=batches_of(0, 2, 1), observer=observer)
    )
    while not run.is_over:
        scheduler.step()
    assert observer.was_over is False


KINDS = [RunStarted, RunProgress, TurnFinished, QuestionAnswered, RunEnded]


def test_a_late_thread_does_not_wait_for_the_whole_run_of_another() -> None:
    runtime = slow()
    driver = make_driver(runtime, CHAIN)
    is_late_answered = threading.Event()
    num_early: list[int] = []

    def late() -> None:
        until(lambda: bool(num_early))
        list(driver.run(batches_of(1, 1)))
        is_late_answered.set()

    assert in_threads(lambda: ask_until(is_late_answered, driver, num_early), late) == [True, None]


def ask_until(event: threading.Event, driver: Driver, answered: list[int]) -> bool:
    """Ask more questions than the other's answer needs, and leave when the event has come. Returns whether it has."""
    with closing(driver.run(batches_of(0, NUM_MANY, 1))) as results:
        for _ in results:
            answered.append(len(answered))
            if event.is_set():
                return True
    return False


def test_closing_does_not_wait_for_the_whole_run_of_another_thread() -> None:
    runtime = slow()
    driver = make_driver(runtime, CHAIN)

    def close() -> None:
        until(lambda: bool(runtime.turns))
        driver.scheduler.close(RunError("it was closed"))

    found, _ = in_threads(lambda: list(driver.run(batches_of(0, 300, 1))), close)
    assert isinstance(found, RunError)
    assert len(runtime.works) < 300 * NUM_AGENTS


def test_a_late_event_loop_does_not_wait_for_the_whole_run_of_a_thread() -> None:
    runtime = slow()
    driver = make_driver(runtime, CHAIN)

    is_late_answered = threading.Event()

    def late() -> None:
        until(lambda: bool(runtime.turns))
        asyncio.run(gathered(driver.scheduler.arun(driver.request(batches_of(1, 1)))))
        is_late_answered.set()

    assert in_threads(lambda: ask_until(is_late_answered, driver, []), late) == [True, None]


@pytest.mark.parametrize("kind", KINDS)
def test_only_its_own_caller_gets_an_observers_error(kind: type[RunEvent]) -> None:
    runtime = slow()
    driver = make_driver(runtime, CHAIN)
    bad = Driver.observed(driver.request(batches_of(0, 10)), Raises(kind, ValueError))
    found, *others = in_threads(
        lambda: list(driver.scheduler.run(bad)),
        lambda: list(driver.run(batches_of(1, 10))),
        lambda: list(driver.run(batches_of(2, 10))),
    )
    assert isinstance(found, ValueError)
    assert [len(texts(other)) for other in others] == [10, 10]
    assert not driver.scheduler.is_busy
    del found
    gc.collect()  # its traceback refers to the step in which it was raised
    assert not runtime.handles


@pytest.mark.parametrize("kind", KINDS)
def test_an_observers_error_ends_neither_the_event_loop_nor_later_calls(kind: type[RunEvent]) -> None:
    driver = make_driver(FakeRuntime(), CHAIN)
    bad = Driver.observed(driver.request(batches_of(0, 10)), Raises(kind, ValueError))

    async def ask() -> tuple[Any, Any]:
        good = driver.request(batches_of(1, 10))
        jobs = [gathered(driver.scheduler.arun(request)) for request in (bad, good)]
        error, answers = await asyncio.gather(*jobs, return_exceptions=True)
        return error, answers

    error, answers = asyncio.run(ask())
    assert isinstance(error, ValueError)
    assert len(texts(answers)) == 10
    assert len(list(driver.run(batches_of(2, 4)))) == 4
    assert not driver.scheduler.is_busy


def test_the_background_thread_survives_errors() -> None:
    driver = make_driver(FakeRuntime(), CHAIN)
    bad = Driver.observed(driver.request(batches_of(0, 10)), Raises(QuestionAnswered, SystemExit))

    async def ask(request: Any) -> list[Any]:
        return await gathered(driver.scheduler.arun(request))

    with pytest.raises(SystemExit):
        asyncio.run(ask(bad))
    assert len(asyncio.run(ask(driver.request(batches_of(1, 4))))) == 4


@pytest.mark.parametrize("call", ["run", "close"])
def test_a_call_from_within_a_step_is_refused(call: str) -> None:
    class Asks(Recorder):
        def on_event(self, event: RunEvent) -> None:
            if not isinstance(event, QuestionAnswered):
                return
            if call == "run":
                list(driver.run(batches_of(1, 1)))
            else:
                driver.scheduler.close(RunError("closed"))

    driver = make_driver(FakeRuntime(), CHAIN, Asks())
    with pytest.raises(RunError, match="from within its own work"):
        list(driver.run(batches_of(0, 4)))
    assert not driver.scheduler.is_busy


def test_a_signal_handler_that_closes_ends_the_loop_with_an_error() -> None:
    driver = make_driver(slow(), CHAIN)

    def close(number: int, frame: FrameType | None) -> None:
        driver.scheduler.close(RunError("closed"))

    before = signal.signal(signal.SIGUSR1, close)
    gc.disable()  # Python drops what a handler raises within a callback of the collector, and Hypothesis has one
    try:
        timer = threading.Timer(0.1, lambda: signal.raise_signal(signal.SIGUSR1))
        timer.start()
        with pytest.raises(RunError, match=r"closed|from within"):
            list(driver.run(batches_of(0, 2000, 1)))
        timer.join()
    finally:
        gc.enable()
        signal.signal(signal.SIGUSR1, before)
    assert not driver.scheduler.is_busy


def test_an_abandoned_loop_ends_even_within_a_step() -> None:
    """The garbage collector may run at any time, in any thread."""
    runtime = FakeRuntime()
    driver = make_driver(runtime, CHAIN)
    forgotten = [driver.run(batches_of(0, 20))]
    next(forgotten[0])
    was_held: list[bool] = []

    class Collects(Recorder):
        def on_event(self, event: RunEvent) -> None:
            if not isinstance(event, RunStarted):
                return
            forgotten.clear()
            gc.collect()
            was_held.append(driver.scheduler._owner is not None)

    request = Driver.observed(driver.request(batches_of(1, 2)), Collects())
    begun = driver.scheduler.run(request)
    next(begun)
    assert was_held == [True]
    assert {work.question_ids[0][:2] for work in runtime.works[-NUM_AGENTS:]} == {"c1"}
    begun.close()
    assert not driver.scheduler.is_busy
    assert not runtime.handles


def test_a_task_cancelled_before_its_run_starts_leaves_no_run() -> None:
    runtime = slow()
    driver = make_driver(runtime, CHAIN)

    async def ask(num_rounds: int) -> None:
        task = asyncio.ensure_future(gathered(driver.scheduler.arun(driver.request(batches_of(0, 300, 1)))))
        for _ in range(num_rounds):
            await asyncio.sleep(0)
        task.cancel()

    for num_rounds in range(5):
        asyncio.run(ask(num_rounds))  # which closes the loop at once
    until(lambda: not driver.scheduler.is_busy)
    assert len(runtime.works) < 300 * NUM_AGENTS  # not even one of them has run to its end
    until(lambda: not [thread for thread in threading.enumerate() if thread.name == "scheduler"])


def test_closing_an_event_loop_ends_its_runs() -> None:
    runtime = slow()
    driver = make_driver(runtime, CHAIN)
    loop = asyncio.new_event_loop()
    results = driver.scheduler.arun(driver.request(batches_of(0, 300, 1)))
    loop.run_until_complete(anext(results))
    loop.close()
    until(lambda: not driver.scheduler.is_busy)
    assert len(runtime.works) < 300 * NUM_AGENTS


def test_unfetched_results_are_bounded() -> None:
    """Results that a slow caller has not fetched may hold working memory."""
    runtime = FakeRuntime()
    driver = make_driver(runtime, CHAIN)

    async def ask() -> list[Any]:
        results = driver.scheduler.arun(driver.request(batches_of(0, 200, 1)))
        first = await anext(results)
        await asyncio.sleep(0.3)
        assert len(runtime.works) < 50 * NUM_AGENTS
        return [first, *[result async for result in results]]

    assert len(asyncio.run(ask())) == 200

    suspended = driver.run(batches_of(1, 200, 1))
    next(suspended)
    assert len(list(driver.run(batches_of(2, 200, 1)))) == 200
    assert sum(work.question_ids[0].startswith("c1") for work in runtime.works) < 50 * NUM_AGENTS
    assert len(list(suspended)) == 199
