"""When an engine computed: what it did not hide of a transfer is exposed."""

import threading
from collections import deque

_GAP_SECONDS = 0.002  # between two steps: the engine did not wait for memory
_MAX_INTERVALS = 10_000


class BusyTime:
    """The intervals in which an engine computed, in seconds of the wall clock. Thread-safe."""

    def __init__(self) -> None:
        self._intervals: deque[tuple[float, float]] = deque(maxlen=_MAX_INTERVALS)
        self._lock = threading.Lock()

    def record(self, begin: float, end: float) -> None:
        """Add an interval, which begins after all others ended."""
        with self._lock:
            if self._intervals and begin - self._intervals[-1][1] <= _GAP_SECONDS:
                begin, _ = self._intervals.pop()
            self._intervals.append((begin, end))

    def within(self, begin: float, end: float) -> float:
        """Return for how many of the seconds from `begin` to `end` it computed."""
        seconds = 0.0
        with self._lock:
            for first, last in reversed(self._intervals):
                if last <= begin:
                    break
                seconds += max(0.0, min(last, end) - max(first, begin))
        return seconds
