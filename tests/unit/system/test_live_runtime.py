"""The runtime that the calls of one `LatentMAS` share: started once, replaced only without active calls, no
deadlocks."""

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import pytest

from latentmas_ray.errors import ActorError, ConfigError, RunError
from latentmas_ray.scheduler.protocol import RuntimeInfo
from latentmas_ray.scheduler.run import RunRequest
from latentmas_ray.scheduler.turns import DriverSettings
from latentmas_ray.system.live_runtime import LiveRuntime
from latentmas_ray.topology import Topology
from tests.cases.fake_runtime import FakeRuntime
from tests.cases.scheduler import CHAIN, PARALLEL, SINGLE
from tests.unit.scheduler.test_shared import PATIENCE_SECONDS, batches_of, gathered, in_threads


@dataclass
class Slow(FakeRuntime):
    """Takes its time to start."""

    started: list[float] = field(default_factory=list)
    times_closed: int = 0
    start_seconds: float = 0.0
    may_start: threading.Event | None = None  # what its start waits for

    def start(self) -> RuntimeInfo:
        self.started.append(time.monotonic())
        time.sleep(self.start_seconds)
        if self.may_start is not None:
            assert self.may_start.wait(PATIENCE_SECONDS)
        return super().start()

    def close(self) -> None:
        self.times_closed += 1


class Live:
    """A LiveRuntime, and all runtimes that it has made."""

    def __init__(self, **fields: Any) -> None:
        self.made: list[Slow] = []
        self._fields = fields
        self.runtime = LiveRuntime(self._make, lambda: None, None)

    def _make(self, topology: Topology, num_batches: int) -> Slow:
        self.made.append(Slow(**self._fields))
        return self.made[-1]


def request(of: Topology, caller: int = 0, count: int = 4) -> RunRequest:
    return RunRequest(topology=of, settings=DriverSettings(), batches=batches_of(caller, count))


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + 20
    while left := [thread for thread in threading.enumerate() if thread not in before]:
        assert time.monotonic() < deadline, left
        time.sleep(0.01)


def test_other_agents_replace_a_runtime_without_active_calls() -> None:
    live = Live()
    with closing(live.runtime.run(request(CHAIN))) as results:
        next(results)
        with pytest.raises(ConfigError, match=r"topology: got 'made-up'; its agents must be among those .*planner"):
            next(live.runtime.run(request(PARALLEL)))
    assert len(list(live.runtime.run(request(PARALLEL)))) == 4
    assert [runtime.times_closed for runtime in live.made] == [1, 0]
    live.runtime.close()


def test_a_call_that_has_its_runtime_never_loses_it_to_other_agents() -> None:
    """Neither may shut down the runtime of the other, in either order."""
    live = Live()

    def ask(of: Topology, caller: int) -> None:
        for number in range(100):
            try:
                assert len(list(live.runtime.run(request(of, caller * 100 + number, 1)))) == 1
            except ConfigError:
                continue  # other calls were active

    assert in_threads(*[lambda of=of: ask(of, 1) for of in (CHAIN, PARALLEL, SINGLE)]) == [None, None, None]
    live.runtime.close()


def test_a_runtime_with_lost_actors_is_closed_once_and_replaced() -> None:
    def lose(runtime: FakeRuntime) -> None:
        if runtime is live.made[0]:
            raise ActorError("gone")

    live = Live(on_wait=lose)
    found = in_threads(*[lambda caller=caller: list(live.runtime.run(request(CHAIN, caller))) for caller in range(4)])
    assert [error for error in found if not isinstance(error, list | ActorError)] == []
    assert any(isinstance(error, ActorError) for error in found)
    assert len(list(live.runtime.run(request(CHAIN, 9)))) == 4
    assert live.made[0].times_closed == 1
    live.runtime.close()


def test_close_while_models_are_loaded_waits_for_them_and_ends_them() -> None:
    live = Live(start_seconds=0.3)

    def close() -> None:
        while not (live.made and live.made[0].started):
            time.sleep(0.01)
        live.runtime.close()

    found, _ = in_threads(lambda: list(live.runtime.run(request(CHAIN))), close)
    assert live.made[0].times_closed == 1
    assert isinstance(found, list) or "it was closed" in str(found)


def test_closing_in_the_thread_that_loads_the_models_is_an_error() -> None:
    """As a signal handler would: it must not wait for itself."""

    class Closes(Slow):
        def start(self) -> RuntimeInfo:
            live.close()
            return super().start()

    live = LiveRuntime(lambda topology, num_batches: Closes(), lambda: None, None)
    with pytest.raises(RunError, match="starts or closes the runtime"):
        next(live.run(request(CHAIN)))


def test_an_event_loop_without_a_free_thread_starts_all_the_same() -> None:
    live = Live(start_seconds=0.05)

    async def ask() -> list[Any]:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        is_answered = threading.Event()
        waits = asyncio.ensure_future(asyncio.to_thread(is_answered.wait, 20.0))
        await asyncio.sleep(0)
        results = await gathered(live.runtime.arun(request(CHAIN)))
        is_answered.set()
        assert await waits
        return results

    assert len(asyncio.run(ask())) == 4
    live.runtime.close()


@pytest.mark.parametrize("num_tasks", [1, 40])
def test_tasks_that_are_cancelled_while_models_are_loaded_leave_no_active_call(num_tasks: int) -> None:
    may_start = threading.Event()
    live, num_threads = Live(may_start=may_start), threading.active_count()

    async def ask() -> None:
        tasks = [asyncio.ensure_future(gathered(live.runtime.arun(request(CHAIN, n)))) for n in range(num_tasks)]
        while not (live.made and live.made[0].started):
            await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        async with asyncio.timeout(PATIENCE_SECONDS / 2):  # the models are still being loaded
            await asyncio.gather(*tasks, return_exceptions=True)
        assert threading.active_count() < num_threads + 8
        may_start.set()

    asyncio.run(ask())
    assert len(list(live.runtime.run(request(PARALLEL)))) == 4  # refused if anybody were at work
    assert live.made[0].works == []
    live.runtime.close()
