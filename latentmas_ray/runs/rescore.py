"""Grade the answers of a results file again, with the current graders."""

import gzip
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from latentmas_ray.errors import JournalError
from latentmas_ray.runs.controls.adoption import outcome_of
from latentmas_ray.runs.folder import encode_row, read_file, write_atomically
from latentmas_ray.runs.grading import Grader, Grading
from latentmas_ray.runs.journal import RESULTS_NAME
from latentmas_ray.tasks import Grade, Question, grade
from latentmas_ray.tasks.question import Corruption

_WAIT_SECONDS = 0.2
_GZIP_MAGIC = b"\x1f\x8b"
_MAX_SHOWN_CHARS = 80


@dataclass(frozen=True, kw_only=True)
class Change:
    """An answer whose grade has changed."""

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
class Rescored:
    """The rows with their new grades, in the file's order, and what changed."""

    rows: Sequence[Mapping[str, Any]]
    was: float | None  # accuracy over the rows that were graded
    accuracy: float | None
    changes: Sequence[Change]
    is_cut: bool = False  # the last line was truncated, as by a killed run, and is left out

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
        """Write the rows, compressed if `path` ends in .gz. Raises JournalError if the file cannot be written."""
        try:
            content = b"".join(encode_row(row) for row in self.rows)
            write_atomically(path, gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
        except OSError as error:
            raise JournalError("output", str(path), f"it cannot be written: {error.strerror or error}") from error
        except RecursionError as error:
            raise JournalError("output", str(path), "it cannot be written: a row is nested too deeply") from error


def check_results(path: Path) -> None:
    """Raises JournalError if there is no such file. Reads nothing."""
    try:
        if path.is_dir():
            raise JournalError("results", str(path), f"it is a folder; give its {RESULTS_NAME}")
        path.stat()
    except OSError as error:
        raise JournalError("results", str(path), f"it cannot be read: {error.strerror or error}") from error


def rescore(path: Path, questions: Mapping[str, Question], grader: Grader = grade) -> Rescored:
    """Grade all rows of a results file again: JSON objects with at least `id` and `answer`, compressed or not.

    Raises JournalError, with `FILE:LINE`, for a row of another form, with an id that is not in `questions`, or whose
    `question` is not the question with that id.
    """
    rows, is_cut = _read(path, questions)
    grading: Grading[int] = Grading(grader)
    grades: dict[int, Grade] = {}
    try:
        for number, row in enumerate(rows):
            grading.submit(number, [(_corrupted(questions[_question_id(row)], row), [row["answer"]])])
        while len(grading):
            for number, finished in grading.collect(_WAIT_SECONDS):
                grades.update((number, one.grades[0]) for one in finished.values())
    finally:
        grading.cancel()
    changes = [
        Change(
            id=str(row["id"]),
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
        | _adoption(row, grades[number])
        for number, row in enumerate(rows)
    ]
    return Rescored(rows=fresh, was=_accuracy(rows), accuracy=_accuracy(fresh), changes=changes, is_cut=is_cut)


def _question_id(row: Mapping[str, Any]) -> str:
    """Return the id of the question that a row is about: the one of which it has a hint, else its own."""
    hint = row.get("hint")
    return str(hint["question"] if isinstance(hint, dict) and "question" in hint else row["id"])


def _corrupted(question: Question, row: Mapping[str, Any]) -> Question:
    """Return the question with what one agent was told wrongly when it was answered, for its grade."""
    if not isinstance(told := row.get("adoption"), dict):
        return question
    wrong = replace(question, gold=str(told.get("wrong_gold")))
    return replace(question, corruption=Corruption(agent=str(told.get("agent")), question=wrong))


def _adoption(row: Mapping[str, Any], found: Grade) -> dict[str, Any]:
    return {} if found.adopted is None else {"adoption": {**row["adoption"], "outcome": outcome_of(found)}}


def _accuracy(rows: Sequence[Mapping[str, Any]]) -> float | None:
    graded = [bool(row["correct"]) for row in rows if row.get("correct") is not None]
    return sum(graded) / len(graded) if graded else None


def _read(path: Path, questions: Mapping[str, Question]) -> tuple[list[dict[str, Any]], bool]:
    """Return the rows, and whether a truncated last line was left out."""
    lines = _content(path).split(b"\n")
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"{path.name}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            if rows and number == len(lines):
                return rows, True
            raise JournalError(place, line.decode(errors="replace"), "it must be one JSON object") from None
        _check_row(row, line, place, questions)
        rows.append(row)
    if not rows:
        raise JournalError("results", str(path), "the file holds no answer")
    return rows, False


def _content(path: Path) -> bytes:
    check_results(path)
    try:
        content = read_file(path)
        return gzip.decompress(content) if content.startswith(_GZIP_MAGIC) else content
    except OSError as error:
        raise JournalError("results", str(path), f"it cannot be read: {error.strerror or error}") from error
    except (EOFError, zlib.error) as error:
        raise JournalError("results", str(path), f"the gzip file is damaged or truncated: {error}") from error


def _check_row(row: object, line: bytes, place: str, questions: Mapping[str, Question]) -> None:
    if not isinstance(row, dict) or not _is_id(row.get("id")) or not isinstance(row.get("answer"), str):
        raise JournalError(place, line.decode(errors="replace"), "it must be an object with an id and the text answer")
    if row.get("correct") not in (True, False, None):
        raise JournalError(f"{place}: correct", row["correct"], "it must be true, false, null or left out")
    question = questions.get(_question_id(row))
    if question is None:
        raise JournalError(
            f"{place}: id", _question_id(row), "the task has no such question; give the task of this file"
        )
    asked = row.get("question")
    # Other programs may store the whole prompt there.
    known = (question.question, question.record.get("stem", question.question))  # with its options or without
    if isinstance(asked, str) and not any(" ".join(str(one).split()) in " ".join(asked.split()) for one in known):
        expected = f"under this id the task has {question.question[:_MAX_SHOWN_CHARS]!r}; give the task of this file"
        raise JournalError(f"{place}: question", asked, expected)


def _is_id(value: object) -> bool:
    """Return whether the value is an id, as in a file of questions: a text or a whole number."""
    return isinstance(value, str | int) and not isinstance(value, bool)
