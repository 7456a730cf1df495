"""Chooses which parts of a start are drawn in detail: all of it, or its beginning, its faults and its end."""

from collections.abc import Sequence
from dataclasses import dataclass

from latentmas_ray.report.timeline.lanes import Chart

MAX_BARS_PER_ROW = 24  # in one strip: more are too narrow to be read
MAX_BARS = 1200  # in one strip
_CONTEXT = 0.3  # of a strip, before the fault that it shows


@dataclass(frozen=True, kw_only=True)
class Window:
    """A stretch of time that is drawn as one strip, in seconds on the driver's clock."""

    begin: float
    end: float
    shows: str  # what it is about

    @property
    def seconds(self) -> float:
        return self.end - self.begin


def choose_windows(chart: Chart, most: int) -> list[Window]:
    """Return at most `most` windows that do not overlap, in the order of time; one, if all turns fit into it."""
    seconds = _readable_seconds(chart)
    whole = chart.end - chart.begin
    if seconds >= whole:
        return [Window(begin=chart.begin, end=chart.end, shows="the whole run")]
    chosen = [Window(begin=chart.begin, end=chart.begin + seconds, shows="its beginning")]
    for fault in sorted(chart.faults, key=lambda fault: fault.at):
        shown_until = chosen[-1].end
        if len(chosen) < most - 1 and shown_until <= fault.at and shown_until < chart.end:
            begin = max(fault.at - _CONTEXT * seconds, shown_until)
            end = min(begin + seconds, chart.end)
            chosen.append(Window(begin=begin, end=end, shows=f"the loss of {fault.replica}"))
    if chosen[-1].end < chart.end:
        chosen.append(Window(begin=max(chart.end - seconds, chosen[-1].end), end=chart.end, shows="its end"))
    return chosen


def _readable_seconds(chart: Chart) -> float:
    """Return the longest time in which no row has too many bars, as far as an even pace tells."""
    begins = [sorted(bar.begin for bar in row.bars) for lane in chart.lanes for row in lane.rows]
    every = sorted(begin for row in begins for begin in row)
    return min(
        [_shortest(row, MAX_BARS_PER_ROW) for row in begins] + [_shortest(every, MAX_BARS), chart.end - chart.begin]
    )


def _shortest(begins: Sequence[float], count: int) -> float:
    """Return the median time in which `count` bars begin; endless for fewer bars."""
    spans = sorted(later - earlier for earlier, later in zip(begins, begins[count:], strict=False))
    return spans[len(spans) // 2] if spans else float("inf")
