"""The timeline as a trace that Perfetto and chrome://tracing open: JSON in the Trace Event Format.

Each replica is a process of the trace, each row of its lane a thread. Turns are slices, their phases slices within;
hand-overs are flows; faults, replicas that are ready, and nodes are instants; how many replicas compute and how many
bytes have moved are counters. Times are microseconds since the run was first started, and events are in their order.
Source of the format: "Trace Event Format" of the Chromium project.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

from latentmas_ray.report.timeline.lanes import Bar, Chart, HandOverArrow, Lane, busy_times, make_chart
from latentmas_ray.runs.timeline import RunTimeline, StartTimeline

Event = dict[str, Any]
Place = tuple[int, int]  # process and thread of the trace
_RUN = 0  # the process for what belongs to no replica


def trace_file(timeline: RunTimeline, *, title: str) -> bytes:
    """Return the file."""
    first = timeline.starts[0].start.at
    charts = [(start, chart) for start in timeline.starts if (chart := make_chart(start)) is not None]
    zero = min([first, *(chart.begin for _, chart in charts)])
    names = list(dict.fromkeys(lane.name for _, chart in charts for lane in chart.lanes))
    pids = {name: number for number, name in enumerate(names, start=1)}
    events = [*_names(title, charts, pids)]
    num_flows = 0
    for start, chart in charts:
        writer = _ChartWriter(chart, pids, zero, num_flows)
        events += [*writer.events(start)]
        num_flows += len(chart.arrows)
    content = {
        "traceEvents": sorted(events, key=_order),
        "displayTimeUnit": "ms",
        "otherData": {"run": title, "clock": _clock_note(charts)},
    }
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode(errors="replace") + b"\n"


def _order(event: Event) -> tuple[int, bool, int]:
    """By time, names first. A slice comes before those within it, and before what refers to it."""
    return event.get("ts", -1), event["ph"] != "X", -event.get("dur", 0)


def _names(title: str, charts: Sequence[tuple[StartTimeline, Chart]], pids: Mapping[str, int]) -> Iterator[Event]:
    yield _name("process_name", _RUN, 0, title)
    lanes: dict[str, Lane] = {}
    for _, chart in charts:
        for lane in chart.lanes:
            if lane.name not in lanes or len(lane.rows) > len(lanes[lane.name].rows):
                lanes[lane.name] = lane
    for name, lane in lanes.items():
        where = f" on {', '.join(node[:8] for node in lane.nodes)}" if lane.nodes else ""
        yield _name("process_name", pids[name], 0, f"{name}{where}")
        yield {"ph": "M", "name": "process_sort_index", "pid": pids[name], "tid": 0, "args": {"sort_index": pids[name]}}
        for row in range(len(lane.rows)):
            yield _name("thread_name", pids[name], row, "turns" if len(lane.rows) == 1 else f"row {row + 1}")


def _name(kind: str, pid: int, tid: int, name: str) -> Event:
    return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": {"name": name}}


def _clock_note(charts: Sequence[tuple[StartTimeline, Chart]]) -> dict[str, Any]:
    clocks = {node: clock for start, _ in charts for node, clock in start.clocks.items()}
    return {
        node or "driver": {"shifted_seconds": round(clock.shift, 6), "error_seconds": round(clock.error, 6)}
        for node, clock in clocks.items()
    }


class _ChartWriter:
    """Writes the events of one start."""

    def __init__(self, chart: Chart, pids: Mapping[str, int], zero: float, num_flows: int) -> None:
        self._chart, self._pids, self._zero, self._num_flows = chart, pids, zero, num_flows
        self._places: dict[Bar, Place] = {
            bar: (pids[lane.name], row) for lane in chart.lanes for row, one in enumerate(lane.rows) for bar in one.bars
        }

    def events(self, start: StartTimeline) -> Iterator[Event]:
        """Yield all events; slices of one thread are in the order of time."""
        for bar, place in self._places.items():
            yield from self._slices(bar, place)
        for number, arrow in enumerate(self._chart.arrows, start=self._num_flows):
            yield from self._flow(arrow, number)
        for lane in self._chart.lanes:
            for change in lane.changes:
                args = {"nodes": list(change.nodes), "reason": change.reason}
                yield self._instant(change.event.replace("_", " "), change.at, (self._pids[lane.name], 0), "p", args)
            for lost in lane.lost:
                args = {"agent": lost.agent, "questions": list(lost.questions), "reason": lost.reason}
                yield self._instant("turn lost", lost.at, (self._pids[lane.name], 0), "t", args)
        for node in start.nodes:
            args = {"node": node.node, **({"reason": node.reason} if node.reason else {})}
            yield self._instant(node.event.replace("_", " "), node.at, (_RUN, 0), "g", args)
        yield from self._counters()
        for question in start.questions:
            about: Event = {"question": question.question, "seconds": question.seconds, "reason": question.reason}
            yield self._instant(question.event, question.at, (_RUN, 0), "t", about)

    def _counters(self) -> Iterator[Event]:
        """Yield how many replicas compute, and how many bytes have moved, whenever that changes."""
        busy = [span for lane in self._chart.lanes for span in busy_times(lane)]
        steps = [(begin, 1) for begin, _ in busy] + [(end, -1) for _, end in busy]
        moves = [(arrow.end, arrow.read.moved_bytes) for arrow in self._chart.arrows]
        for name, series, changes in (("replicas computing", "replicas", steps), ("bytes moved", "bytes", moves)):
            changes.sort()
            totals = accumulate(change for _, change in changes)
            # The last of several at the same microsecond counts.
            values = {self._at(at): total for (at, _), total in zip(changes, totals, strict=True)}
            for ts, value in values.items():
                yield {"ph": "C", "name": name, "ts": ts, "pid": _RUN, "tid": 0, "args": {series: value}}

    def _at(self, seconds: float) -> int:
        return max(0, round((seconds - self._zero) * 1e6))

    def _slices(self, bar: Bar, place: Place) -> Iterator[Event]:
        """Yield a turn and its phases. A phase lies within its turn, to the microsecond."""
        turn = bar.turn
        args = {
            "questions": list(bar.questions),
            "prompt_tokens": turn.prompt_tokens,
            "latent_steps": turn.latent_steps,
            "output_tokens": turn.output_tokens,
            "submitted_us": self._at(turn.submitted_at),
            "seen_us": self._at(turn.seen_at),
        }
        yield self._slice(turn.agent, "turn", bar.begin, bar.end, place, args)
        for phase, begin, end in bar.spans:
            yield self._slice(phase, "phase", begin, end, place, {})

    def _slice(self, name: str, kind: str, begin: float, end: float, place: Place, args: Event) -> Event:
        first = self._at(begin)
        pid, tid = place
        duration = max(0, self._at(end) - first)
        return {
            "ph": "X",
            "name": name,
            "cat": kind,
            "ts": first,
            "dur": duration,
            "pid": pid,
            "tid": tid,
            "args": args,
        }

    def _flow(self, arrow: HandOverArrow, number: int) -> Iterator[Event]:
        read = arrow.read
        args = {
            "bytes": read.num_bytes,
            "moved_bytes": read.moved_bytes,
            "transport": read.transport,
            "link": read.link,
        }
        name = f"{read.source} → {arrow.reader.turn.agent}"
        # The slice that a flow leaves is the one at its time, so it must not be the slice's very end.
        for kind, bar, at in (("s", arrow.source, self._at(arrow.begin) - 1), ("f", arrow.reader, self._at(arrow.end))):
            pid, tid = self._places[bar]
            inside = min(max(at, self._at(bar.begin)), self._at(bar.end))
            event = {"ph": kind, "id": number, "name": name, "cat": "hand-over", "ts": inside, "pid": pid, "tid": tid}
            yield {**event, "args": args, **({"bp": "e"} if kind == "f" else {})}

    def _instant(self, name: str, at: float, place: Place, scope: str, args: Event) -> Event:
        pid, tid = place
        return {
            "ph": "i",
            "s": scope,
            "name": name,
            "cat": "event",
            "ts": self._at(at),
            "pid": pid,
            "tid": tid,
            "args": args,
        }
