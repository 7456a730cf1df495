"""Exposed time: the part of a transfer that no computation hid."""

import time
from collections.abc import Mapping


class ExposedTimer:
    """Measures, for each source of a turn's memory, how long its transfer took and how much of that was exposed.

    The reader handles one thing at a time: it unpacks a chunk, absorbs it, or does something else. Each such interval
    is recorded when it ends.
    """

    def __init__(self, final_at: Mapping[str, float], *, idle_since: float) -> None:
        """`final_at`: when the last chunk of each source was final, on the clock of the source's machine; `idle_since`:
        when the reader became idle. Both are seconds of the wall clock."""
        self.busy_seconds = dict.fromkeys(final_at, 0.0)  # spent on each source's chunks
        self._final_at = dict(final_at)
        self._idle_since = idle_since
        self._intervals: list[tuple[str | None, float]] = []  # (source that was handled, end time), in order

    def note_final(self, source: str, final_at: float) -> None:
        """Set the time at which a later chunk of a source was final."""
        self._final_at[source] = final_at

    def record(self, source: str, begin: float) -> None:
        """Record that the reader handled a chunk of `source` from `begin` until now."""
        end = time.time()
        self.busy_seconds[source] += end - begin
        self._intervals.append((source, end))

    def record_other_work(self) -> None:
        """Record that until now the reader did not wait for memory."""
        self._intervals.append((None, time.time()))

    def exposed_seconds(self) -> dict[str, float]:
        """Return the seconds that each source kept the turn waiting after its memory was final and the reader idle.

        Between machines this is as exact as their clocks agree.
        """
        exposed = dict.fromkeys(self._final_at, 0.0)
        now = max([self._idle_since, *self._final_at.values()])
        for source, end in self._intervals:
            if source is not None:
                exposed[source] += max(0.0, end - now)
            now = max(now, end)
        return exposed
