"""Reads timeline.jsonl."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from latentmas_ray.errors import JournalError
from latentmas_ray.expected import expected_form
from latentmas_ray.runs.folder import read_file, read_json
from latentmas_ray.runs.timeline.clocks import NodeClock, NodeClocks
from latentmas_ray.runs.timeline.recorder import TIMELINE_NAME
from latentmas_ray.runs.timeline.rows import (
    ROW,
    EndRow,
    LostTurnRow,
    NodeRow,
    QuestionRow,
    ReplicaRow,
    Row,
    SpanRow,
    StartRow,
    TurnRow,
)

_NO_EVENT = "it is not an event of a run; remove the line"


@dataclass(frozen=True, kw_only=True)
class StartTimeline:
    """What happened from one start of a run on. All times are on the driver's clock."""

    start: StartRow
    turns: tuple[TurnRow, ...]
    lost_turns: tuple[LostTurnRow, ...]
    replicas: tuple[ReplicaRow, ...]
    nodes: tuple[NodeRow, ...]
    questions: tuple[QuestionRow, ...]
    end: EndRow | None  # None if the run still runs, or was killed
    clocks: dict[str, NodeClock]  # by node


@dataclass(frozen=True, kw_only=True)
class RunTimeline:
    """The timeline of a run: one part for each time that it was started."""

    starts: tuple[StartTimeline, ...]


def read_timeline(folder: Path) -> RunTimeline | None:
    """Return the timeline of an output folder; None if it has none, as of an older version. A last line that is not
    complete, as of a killed run, is ignored.

    Raises JournalError with `FILE:LINE`, and the field if only one of them is wrong, for a line that no run wrote, and
    OSError.
    """
    path = folder / TIMELINE_NAME
    if not path.exists():
        return None
    lines = read_file(path).split(b"\n")[:-1]
    rows = [_decode(line, f"{path}:{number}") for number, line in enumerate(lines, start=1)]
    return RunTimeline(starts=tuple(_start_timeline(part) for part in _parts(rows)))


def _decode(line: bytes, place: str) -> Row:
    try:
        row = ROW.validate_python(read_json(line))
        if isinstance(row, TurnRow) and any(end < begin for spans in _spans_of(row) for _, begin, end in spans):
            raise ValueError("a phase ends before it begins")
        if isinstance(row, TurnRow) and not (row.questions and len(row.question_spans) in (0, len(row.questions))):
            raise ValueError("it does not say whose spans these are")
        return row
    except ValidationError as error:
        raise _field_error(error, line, place) from None
    except (ValueError, TypeError, RecursionError):
        raise JournalError(place, line.decode(errors="replace"), _NO_EVENT) from None


def _field_error(error: ValidationError, line: bytes, place: str) -> JournalError:
    first = error.errors(include_url=False)[0]
    path = first["loc"][1:]  # after the event
    if not path:
        return JournalError(place, line.decode(errors="replace"), _NO_EVENT)
    value = "nothing" if first["type"] == "missing" else first["input"]
    return JournalError(f"{place}: {'.'.join(map(str, path))}", value, f"{expected_form(first)}; remove the line")


def _spans_of(turn: TurnRow) -> tuple[tuple[SpanRow, ...], ...]:
    return (turn.spans, *turn.question_spans)


def _parts(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Yield the rows of each start. Rows before the first one belong to no start that is known."""
    part: list[Row] = []
    for row in rows:
        if isinstance(row, StartRow):
            if part:
                yield part
            part = []
        if part or isinstance(row, StartRow):
            part.append(row)
    if part:
        yield part


def _start_timeline(rows: Sequence[Row]) -> StartTimeline:
    start = rows[0]
    assert isinstance(start, StartRow)
    turns = [row for row in rows if isinstance(row, TurnRow)]
    clocks = NodeClocks(turns)
    return StartTimeline(
        start=start,
        turns=tuple(clocks.on_drivers_clock(turn) for turn in turns),
        lost_turns=tuple(row for row in rows if isinstance(row, LostTurnRow)),
        replicas=tuple(row for row in rows if isinstance(row, ReplicaRow)),
        nodes=tuple(row for row in rows if isinstance(row, NodeRow)),
        questions=tuple(row for row in rows if isinstance(row, QuestionRow)),
        end=next((row for row in rows if isinstance(row, EndRow)), None),
        clocks=clocks.by_node,
    )
