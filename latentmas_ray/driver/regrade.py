"""Answers of a results file, graded again by the task as it is now."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentmas_ray.driver.folder import encode_row, write_atomically
from latentmas_ray.driver.grading import Grader, Grading
from latentmas_ray.errors import JournalError
from latentmas_ray.tasks import Grade, Question, grade

_WAIT_SECONDS = 0.2


@dataclass(frozen=True, kw_only=True)
class Change:
    """An answer whose grade is another than before."""

    id: str
    was: bool | None
    now: bool | None
    prediction: str | None
    reason: str

    def __str__(self) -> str:
        words = {True: "right", False: "wrong", None: "not graded"}
        first_line = (self.prediction or "").strip().partition("\n")[0] or "nothing"
        why = self.reason or f"read as {first_line[:60]!r}"
        return f"{self.id}: {words[self.was]} -> {words[self.now]} ({why})"


@dataclass(frozen=True, kw_only=True)
class Regraded:
    """The rows with their new grades, in the file's order, and what changed."""

    rows: Sequence[Mapping[str, Any]]
    was: float | None  # accuracy over the rows that were graded
    accuracy: float | None
    changes: Sequence[Change]

    def to_json(self) -> dict[str, Any]:
        """The figures, without the rows."""
        return {
            "num_answers": len(self.rows),
            "accuracy": self.accuracy,
            "accuracy_before": self.was,
            "num_changed": len(self.changes),
            "changed": [vars(change) for change in self.changes],
        }

    def write(self, path: Path) -> None:
        """Write the rows. Raises JournalError where that cannot be done."""
        try:
            write_atomically(path, b"".join(encode_row(row) for row in self.rows))
        except OSError as error:
            raise JournalError("output", str(path), f"it cannot be written: {error.strerror or error}") from error


def regrade(path: Path, questions: Mapping[str, Question], grader: Grader = grade) -> Regraded:
    """Grade every row of a results file again: any JSON objects with `id` and `answer`, of this project or not.

    Raises JournalError, with `FILE:LINE`, for a row of another form or of a question that the task has not.
    """
    rows = _read(path, questions)
    grading: Grading[int] = Grading(grader)
    grades: dict[int, Grade] = {}
    try:
        for number, row in enumerate(rows):
            grading.give(number, [(questions[row["id"]], row["answer"])])
        while len(grading):
            for number, made in grading.take(_WAIT_SECONDS):
                grades.update((number, one) for one in made.values())
    finally:
        grading.cancel()
    changes = [
        Change(
            id=row["id"],
            was=row.get("correct"),
            now=grades[number].correct,
            prediction=grades[number].prediction,
            reason=grades[number].reason,
        )
        for number, row in enumerate(rows)
        if row.get("correct") != grades[number].correct
    ]
    fresh = [
        {**row, "prediction": grades[number].prediction, "correct": grades[number].correct}
        for number, row in enumerate(rows)
    ]
    return Regraded(rows=fresh, was=_accuracy(rows), accuracy=_accuracy(fresh), changes=changes)


def _accuracy(rows: Sequence[Mapping[str, Any]]) -> float | None:
    graded = [bool(row["correct"]) for row in rows if row.get("correct") is not None]
    return sum(graded) / len(graded) if graded else None


def _read(path: Path, questions: Mapping[str, Question]) -> list[dict[str, Any]]:
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise JournalError("results", str(path), f"it cannot be read: {error.strerror or error}") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"{path.name}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise JournalError(place, line.decode(errors="replace"), "it must be one JSON object") from None
        if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("id", "answer")):
            raise JournalError(
                place, line.decode(errors="replace"), "it must be an object with the texts id and answer"
            )
        if row.get("correct") not in (True, False, None):
            raise JournalError(f"{place}: correct", str(row["correct"]), "it must be true, false, null or left out")
        if row["id"] not in questions:
            raise JournalError(f"{place}: id", row["id"], "the task has no such question; give the task of this file")
        rows.append(row)
    if not rows:
        raise JournalError("results", str(path), "the file holds no answer")
    return rows
