"""A runtime that wraps another one and measures the driver's processor time and the times of each turn."""

import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from benchmarks.scaling.timer_runner import TurnStamps
from latentmas_ray.engine.timing.progress import TurnProgress
from latentmas_ray.engine.turn import OnTokens, TurnRequest
from latentmas_ray.scheduler.protocol import Event, Runtime, RuntimeInfo, TurnDone, TurnHandle

CALLS = ("submit", "poll", "free_segments")


@dataclass
class TurnTimes:
    """The times of one turn at the driver and at its actor; seconds of each machine's wall clock."""

    submitted: float  # the driver starts to submit it
    seen: float = 0.0  # a poll has returned its result
    actor: TurnStamps | None = None


class TimedRuntime:
    """Implements the scheduler's `Runtime` protocol around another runtime; `reset` starts a new measurement.

    Processor time is that of the calling thread, which is the driver's; a waiting thread uses none.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.reset()

    def reset(self) -> None:
        """Drop all measurements."""
        self.turns: dict[tuple[int, str], TurnTimes] = {}  # by batch and agent
        self.call_seconds: defaultdict[str, float] = defaultdict(float)  # of processor time, by call
        self.gaps: list[float] = []  # of processor time from one result to the next
        self._open: WeakKeyDictionary[TurnHandle, TurnTimes] = WeakKeyDictionary()
        self._last_result: float | None = None

    def start(self) -> RuntimeInfo:
        """Start the wrapped runtime."""
        return self._runtime.start()

    def submit(self, work: TurnRequest, segments: Mapping[str, Any], on_tokens: OnTokens | None = None) -> TurnHandle:
        """Submit a turn and record when."""
        times = self.turns[work.batch, work.agent] = TurnTimes(time.time())
        with self._measured("submit"):
            handle = self._runtime.submit(work, segments)
        self._open[handle] = times
        return handle

    def poll(self, timeout_seconds: float) -> list[Event]:
        """Return the wrapped runtime's events and record when turns are done."""
        with self._measured("poll"):
            events = self._runtime.poll(timeout_seconds)
        done = [event for event in events if isinstance(event, TurnDone)]
        for event in done:
            times = self._open[event.handle]
            times.seen = time.time()
            times.actor = TurnStamps.of(event.result)
        now = time.thread_time()
        if self._last_result is not None and done:  # before the first one, time was spent on admissions
            self.gaps += [(now - self._last_result) / len(done)] * len(done)
        self._last_result = now if done else self._last_result
        return events

    def cancel(self, handles: Sequence[TurnHandle], question_ids: Collection[str] | None = None) -> None:
        """Cancel turns."""
        self._runtime.cancel(handles, question_ids)

    def free_segments(self, handles: Sequence[TurnHandle]) -> None:
        """Free these segments."""
        with self._measured("free_segments"):
            self._runtime.free_segments(handles)

    def running_turns(self) -> list[TurnProgress]:
        """Return how far the turns are that run now."""
        return self._runtime.running_turns()

    def close(self) -> None:
        """Close the wrapped runtime."""
        self._runtime.close()

    @contextmanager
    def _measured(self, call: str) -> Iterator[None]:
        begin = time.thread_time()
        yield
        self.call_seconds[call] += time.thread_time() - begin
