"""A runtime that passes everything on to another one, and keeps account of the driver's time and of each turn's way."""

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from benchmarks.scaling.timer_runner import TurnStamps
from latentmas_ray.engine.turn import TurnRequest, TurnResult
from latentmas_ray.scheduler.protocol import Runtime, RuntimeInfo, TurnHandle

CALLS = ("submit", "wait", "report", "release")


@dataclass
class TurnTimes:
    """One turn as the driver saw it, and as its actor did; seconds of the wall clock, each of its own machine."""

    submitted: float  # the driver begins to submit it
    seen: float = 0.0  # a wait has returned it
    asked: float = 0.0  # the driver begins to fetch its report
    reported: float = 0.0  # the report is here
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
        self.gaps: list[float] = []  # of processor time from one report to the next
        self._open: WeakKeyDictionary[TurnHandle, TurnTimes] = WeakKeyDictionary()
        self._last_report: float | None = None

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

    def wait(self, tickets: Sequence[TurnHandle], timeout_seconds: float) -> list[TurnHandle]:
        """Those that have finished."""
        with self._counted("wait"):
            finished = self._runtime.wait(tickets, timeout_seconds)
        now = time.time()
        for ticket in finished:
            self._open[ticket].seen = now
        return finished

    def report(self, ticket: TurnHandle) -> TurnResult:
        """The report of a finished turn."""
        times = self._open[ticket]
        times.asked = time.time()
        with self._counted("report"):
            report = self._runtime.report(ticket)
        times.reported = time.time()
        times.actor = TurnStamps.of(report)
        now = time.thread_time()
        if self._last_report is not None:  # before the first one there were admissions only
            self.gaps.append(now - self._last_report)
        self._last_report = now
        return report

    def is_lost(self, ticket: TurnHandle) -> bool:
        """As the runtime inside says."""
        return self._runtime.is_lost(ticket)

    def cancel(self, tickets: Sequence[TurnHandle]) -> None:
        """Give up on turns."""
        self._runtime.cancel(tickets)

    def release(self, tickets: Sequence[TurnHandle]) -> None:
        """Nobody reads these segments any more."""
        with self._counted("release"):
            self._runtime.release(tickets)

    def close(self) -> None:
        """Close the other one."""
        self._runtime.close()

    @contextmanager
    def _counted(self, call: str) -> Iterator[None]:
        begin = time.thread_time()
        yield
        self.call_seconds[call] += time.thread_time() - begin
