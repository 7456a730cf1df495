"""A runtime that passes everything on to another one, and keeps account of the driver's time and of each turn's way."""

import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from benchmarks.scaling.timer_runner import TurnStamps
from latentmas_ray.engine.turn import TurnRequest
from latentmas_ray.scheduler.events import Event, TurnDone, TurnHandle
from latentmas_ray.scheduler.protocol import Runtime, RuntimeInfo

CALLS = ("submit", "poll", "free_segments")


@dataclass
class TurnTimes:
    """One turn as the driver saw it, and as its actor did; seconds of the wall clock, each of its own machine."""

    submitted: float  # the driver begins to submit it
    seen: float = 0.0  # a poll has returned its result
    actor: TurnStamps | None = None


class TimedRuntime:
    """Speaks the driver's `Runtime` protocol. `begin` starts a new account, and everything after it counts.

    Processor time is that of the calling thread, which is the driver's; a thread that waits uses none.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.begin()

    def begin(self) -> None:
        """Forget what was counted."""
        self.turns: dict[tuple[int, str], TurnTimes] = {}  # by batch and agent
        self.call_seconds: defaultdict[str, float] = defaultdict(float)  # of processor time, by call
        self.gaps: list[float] = []  # of processor time from one result to the next
        self._open: WeakKeyDictionary[TurnHandle, TurnTimes] = WeakKeyDictionary()
        self._last_result: float | None = None

    def start(self) -> RuntimeInfo:
        """Start the other one."""
        return self._runtime.start()

    def submit(self, work: TurnRequest, segments: Mapping[str, Any]) -> TurnHandle:
        """Queue a turn."""
        times = self.turns[work.batch, work.agent] = TurnTimes(time.time())
        with self._counted("submit"):
            ticket = self._runtime.submit(work, segments)
        self._open[ticket] = times
        return ticket

    def poll(self, timeout_seconds: float) -> list[Event]:
        """What has happened."""
        with self._counted("poll"):
            events = self._runtime.poll(timeout_seconds)
        done = [event for event in events if isinstance(event, TurnDone)]
        for event in done:
            times = self._open[event.handle]
            times.seen = time.time()
            times.actor = TurnStamps.of(event.result)
        now = time.thread_time()
        if self._last_result is not None and done:  # before the first one there were admissions only
            self.gaps += [(now - self._last_result) / len(done)] * len(done)
        self._last_result = now if done else self._last_result
        return events

    def cancel(self, handles: Sequence[TurnHandle], question_ids: Collection[str] | None = None) -> None:
        """Give up on turns."""
        self._runtime.cancel(handles, question_ids)

    def free_segments(self, handles: Sequence[TurnHandle]) -> None:
        """These segments will not be read any more."""
        with self._counted("free_segments"):
            self._runtime.free_segments(handles)

    def close(self) -> None:
        """Close the other one."""
        self._runtime.close()

    @contextmanager
    def _counted(self, call: str) -> Iterator[None]:
        begin = time.thread_time()
        yield
        self.call_seconds[call] += time.thread_time() - begin
