"""The timeline as a trace: its form, by the documentation of the Trace Event Format, and what it tells."""

from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from latentmas_ray.report.timeline import trace_file
from tests.cases.timeline import ZERO, Rows, overlapping, pipelined, timeline_of


class TraceEvent(BaseModel):
    """What all events of the Trace Event Format have: ts and dur are microseconds."""

    model_config = ConfigDict(extra="forbid", strict=True)
    name: str
    pid: int
    tid: int


class Slice(TraceEvent):
    ph: Literal["X"]
    cat: str
    ts: Annotated[int, Field(ge=0)]
    dur: Annotated[int, Field(ge=0)]
    args: dict[str, Any]


class Flow(TraceEvent):
    ph: Literal["s", "f"]
    id: int
    cat: str
    ts: Annotated[int, Field(ge=0)]
    bp: Literal["e"] | None = None  # a flow ends at the slice around it, not at the next one
    args: dict[str, Any]


class Instant(TraceEvent):
    ph: Literal["i"]
    s: Literal["g", "p", "t"]
    cat: str
    ts: Annotated[int, Field(ge=0)]
    args: dict[str, Any]


class Counter(TraceEvent):
    ph: Literal["C"]
    ts: Annotated[int, Field(ge=0)]
    args: dict[str, Annotated[int, Field(ge=0)]]  # one series or more, each a number


class Name(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    name: str


class SortIndex(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    sort_index: int


class Named(TraceEvent):
    ph: Literal["M"]
    name: Literal["process_name", "thread_name"]
    args: Name


class Sorted(TraceEvent):
    ph: Literal["M"]
    name: Literal["process_sort_index", "thread_sort_index"]
    args: SortIndex


Metadata = Annotated[Named | Sorted, Field(discriminator="name")]


class Trace(BaseModel):
    """The object form of a trace."""

    model_config = ConfigDict(extra="forbid", strict=True)
    traceEvents: list[Annotated[Slice | Flow | Instant | Counter | Metadata, Field(discriminator="ph")]]
    displayTimeUnit: Literal["ms", "ns"]
    otherData: dict[str, Any]


TRACE = TypeAdapter(Trace)


@pytest.mark.parametrize(
    "rows", [pipelined(), overlapping(), [*pipelined(), *pipelined(2)]], ids=["chain", "texts", "resumed"]
)
def test_the_trace_is_one_that_perfetto_reads(rows: Rows, tmp_path: Path) -> None:
    """The form of every event, by the format's documentation; they are in the order of time; slices of one thread lie
    within one another or apart; flows begin and end in slices; every process and thread has a name."""
    trace = TRACE.validate_json(trace_file(timeline_of(tmp_path, rows), title="a run"))
    slices = defaultdict(list)
    for event in trace.traceEvents:
        if isinstance(event, Slice):
            slices[event.pid, event.tid].append(event)
    assert slices
    for found in slices.values():
        stack: list[Slice] = []
        for one in sorted(found, key=lambda event: (event.ts, -event.dur)):
            while stack and stack[-1].ts + stack[-1].dur <= one.ts:
                stack.pop()
            assert not stack or one.ts + one.dur <= stack[-1].ts + stack[-1].dur
            stack.append(one)
    flows = [event for event in trace.traceEvents if isinstance(event, Flow)]
    by_id = defaultdict(list)
    for flow in flows:
        by_id[flow.id].append(flow.ph)
        assert any(one.ts <= flow.ts <= one.ts + one.dur for one in slices[flow.pid, flow.tid])
        assert (flow.bp == "e") == (flow.ph == "f")
    assert all(kinds == ["s", "f"] for kinds in by_id.values())
    names = {(event.name, event.pid, event.tid) for event in trace.traceEvents if isinstance(event, Named)}
    assert {("process_name", pid, 0) for pid, _ in slices} <= names
    assert {("thread_name", *place) for place in slices} <= names
    timed = [event.ts for event in trace.traceEvents if not isinstance(event, Named | Sorted)]
    assert timed == sorted(timed)
    assert all(by_id[flow.id] == ["s", "f"] for flow in flows)


def test_the_trace_says_why_a_node_is_lost(tmp_path: Path) -> None:
    rows = [*pipelined(), {"event": "node_lost", "at": ZERO + 1.0, "node": "far", "reason": "it was silent"}]
    trace = TRACE.validate_json(trace_file(timeline_of(tmp_path, rows), title="a run"))
    (lost,) = [event for event in trace.traceEvents if isinstance(event, Instant) and event.name == "node lost"]
    assert lost.args == {"node": "far", "reason": "it was silent"}


def test_the_trace_tells_bytes_transport_faults_and_clocks(tmp_path: Path) -> None:
    trace = TRACE.validate_json(trace_file(timeline_of(tmp_path, pipelined()), title="a run"))
    flow = next(event for event in trace.traceEvents if isinstance(event, Flow))
    assert flow.args == {"bytes": 2_000_000, "moved_bytes": 0, "transport": "tcp", "link": "cross_node"}
    assert flow.name == "thinker → writer"
    instants = [event.name for event in trace.traceEvents if isinstance(event, Instant)]
    assert {"replica lost", "replica ready", "turn lost", "node joined", "answered"} == set(instants)
    assert trace.otherData["clock"]["far"] == {"shifted_seconds": 0.0, "error_seconds": 0.0}
    busy = [(event.ts, *event.args.values()) for event in trace.traceEvents if isinstance(event, Counter)]
    assert [one for one in busy if one[0] <= 2_100_000] == [(0, 1), (1_900_000, 0), (2_000_000, 2), (2_000_000, 0)]
    turns = [event for event in trace.traceEvents if isinstance(event, Slice) and event.cat == "turn"]
    phases = [event.name for event in trace.traceEvents if isinstance(event, Slice) and event.cat == "phase"]
    assert len(turns) == 6
    assert phases[:4] == ["prefill", "emit", "think", "emit"]
