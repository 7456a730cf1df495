"""Transfer time, and the part of it that is exposed: that no computation hid."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class _ReaderSpan:
    """What the reader did until `end`, from `begin` or from the end of the interval before, whichever is later."""

    source: str | None  # whose chunk it handled; None: it did something else
    begin: float
    end: float


@dataclass(frozen=True, kw_only=True)
class TransferTime:
    """The seconds of one source's transfer. The exposed ones are part of all."""

    seconds: float  # the reader handled chunks of the source, or waited for them to arrive
    exposed_seconds: float


class ExposedTimer:
    """Measures, for each source of a turn's memory, how long its transfer took and how much of that was exposed.

    The reader handles one thing at a time: it unpacks a chunk, absorbs it, or does something else. Each such interval
    is recorded when it ends. All intervals are on the reader's clock; that of the source only says when its memory was
    final.
    """

    def __init__(
        self,
        final_at: Mapping[str, float],
        *,
        idle_since: float,
        busy_within: Callable[[float, float], float] | None = None,
    ) -> None:
        """`final_at`: when the last chunk of each source was final, on the clock of the source's machine; `idle_since`:
        when the reader became idle. Both are seconds of the wall clock. `busy_within` returns for how many seconds
        between two times the reader's engine computed something else, where it does that while chunks arrive."""
        self._final_at = dict(final_at)
        self._busy_within = busy_within
        self._idle_since = idle_since
        self._intervals: list[_ReaderSpan] = []  # in order

    def note_final(self, source: str, final_at: float) -> None:
        """Set the time at which a later chunk of a source was final."""
        self._final_at[source] = final_at

    def record(self, source: str, begin: float) -> None:
        """Record that the reader handled a chunk of `source` from `begin` until now."""
        self._intervals.append(_ReaderSpan(source, begin, time.time()))

    def record_other_work(self) -> None:
        """Record that until now the reader did not wait for memory."""
        now = time.time()
        self._intervals.append(_ReaderSpan(None, now, now))

    def times(self) -> dict[str, TransferTime]:
        """Return the time of each source's transfer.

        Exposed is what kept the turn waiting after all memory was final and the reader idle: the whole span up to the
        end of an interval counts for that interval's source, without what the engine computed for others meanwhile. The
        transfer is what the reader spent on the source's chunks, and of an exposed span also what went before: the way
        from the source. So the exposed part is never more than the whole. Between machines both are as exact as their
        clocks agree.
        """
        whole, exposed = dict.fromkeys(self._final_at, 0.0), dict.fromkeys(self._final_at, 0.0)
        now = max([self._idle_since, *self._final_at.values()])
        for interval in self._intervals:
            if interval.source is not None:
                span = max(0.0, interval.end - now)
                hidden = self._busy_within(now, interval.end) if span and self._busy_within is not None else 0.0
                exposed[interval.source] += max(0.0, span - hidden)
                whole[interval.source] += max(span, interval.end - interval.begin)
            now = max(now, interval.end)
        return {
            source: TransferTime(seconds=whole[source], exposed_seconds=exposed[source]) for source in self._final_at
        }
