"""Writes timeline.jsonl while a run lasts.

It is no result: nothing waits until it is on disk, and a run whose timeline cannot be written continues without it.
"""

import logging
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from latentmas_ray.errors import JournalError
from latentmas_ray.runs.folder import append, encode_row
from latentmas_ray.runs.run_events import (
    ClusterEvent,
    QuestionAnswered,
    QuestionFailed,
    RunEnded,
    RunEvent,
    RunStarted,
    TurnFinished,
    TurnRepeated,
)
from latentmas_ray.runs.timeline.rows import (
    EndRow,
    QuestionRow,
    Row,
    StartRow,
    cluster_row,
    lost_turn_row,
    turn_row,
)

TIMELINE_NAME = "timeline.jsonl"
WRITE_SECONDS = 1.0  # between two writes
_LOG = logging.getLogger(__name__)


class TimelineRecorder:
    """An observer that writes the events of one run to its folder, a second late at most."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / TIMELINE_NAME
        self._rows: list[bytes] = []  # not written yet
        self._written_at = time.monotonic()
        self._has_failed = False

    def on_event(self, event: RunEvent) -> None:
        """Record an event. Never raises for a file that cannot be written."""
        row = row_of_event(event, time.time())
        if row is not None and not self._has_failed:
            self._rows.append(encode_row(row))
        if isinstance(event, RunEnded) or time.monotonic() - self._written_at >= WRITE_SECONDS:
            self.write()

    def add_rows(self, rows: bytes) -> None:
        """Add rows that another process has recorded, without a last one that does not end."""
        self._rows.append(rows[: rows.rfind(b"\n") + 1])

    def write(self) -> None:
        """Write what was recorded. If that fails, warn once, and record nothing from then on."""
        rows, self._rows = self._rows, []
        self._written_at = time.monotonic()
        if not rows or self._has_failed:
            return
        try:
            append(self._path, b"".join(rows))
        except (OSError, JournalError) as error:
            self._has_failed = True
            _LOG.warning("the run has no timeline from here on: %s cannot be written: %s", self._path, error)

    def remove(self) -> None:
        """Remove the file of an earlier run. Raises OSError."""
        self._path.unlink(missing_ok=True)


def row_of_event(event: RunEvent, at: float) -> dict[str, Any] | None:
    """Return the row of an event seen at `at` (wall-clock seconds); None for one that has none."""
    if isinstance(event, TurnFinished):
        return turn_row(event)
    row: Row | None = None
    match event:
        case TurnRepeated():
            row = lost_turn_row(event, at)
        case RunStarted(description=description, num_questions=num_questions, num_done=num_done):
            row = StartRow(at=at, description=description, num_questions=num_questions, num_done=num_done)
        case _ if isinstance(event, ClusterEvent):
            row = cluster_row(event)
        case QuestionAnswered(answer=answer):
            row = QuestionRow(event="answered", at=at, question=answer.id, seconds=answer.seconds)
        case QuestionFailed(failure=failure):
            row = QuestionRow(event="failed", at=at, question=failure.id, reason=failure.error)
        case RunEnded():
            row = EndRow(at=at)
    return None if row is None else asdict(row)
