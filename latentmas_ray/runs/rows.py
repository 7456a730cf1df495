"""Reading and checking the rows of results.jsonl."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latentmas_ray.config import current_transfer
from latentmas_ray.errors import JournalError
from latentmas_ray.runs.folder import read_file, read_json
from latentmas_ray.runs.results import Answer
from latentmas_ray.tasks.question import Question

_TYPES: Mapping[str, tuple[type, ...]] = {
    "id": (str,),
    "question": (str,),
    "gold": (str, type(None)),
    "answer": (str,),
    "prediction": (str, type(None)),
    "correct": (bool, type(None)),
    "seconds": (int, float),
    "batch_size": (int, type(None)),
}


def read_rows(path: Path, questions: Mapping[str, Question]) -> tuple[dict[str, Answer], bytes]:
    """Return the answers of a results file, in its order, and the content that the file should have.

    A killed process can leave a last line without a line break: it is removed from the content, unless it is complete.
    Raises JournalError with `FILE:LINE` for a line that is not an answer, an id that occurs twice or is not in
    `questions`, and a question or gold that has changed.
    """
    content = read_file(path)
    lines = content.split(b"\n")
    last = lines.pop()
    answers: dict[str, Answer] = {}
    for number, line in enumerate(lines, start=1):
        _add_row(answers, line, f"{path}:{number}", questions)
    repaired = content.removesuffix(last) if last else content
    if last and _is_json(last):
        _add_row(answers, last, f"{path}:{len(lines) + 1}", questions)
        repaired = content + b"\n"
    return answers, repaired


def _add_row(answers: dict[str, Answer], line: bytes, place: str, questions: Mapping[str, Question]) -> None:
    answer = decode_row(line, place)
    question = questions.get(answer.id)
    if question is None:
        raise JournalError(f"{place}: id", answer.id, "the task has no such question; choose another output folder")
    if answer.id in answers:
        raise JournalError(f"{place}: id", answer.id, "it occurs twice; remove one of the two lines")
    for key, was, now in (("question", answer.question, question.question), ("gold", answer.gold, question.gold)):
        if was != now:
            expected = f"the task now has {now!r} under this id; choose another output folder"
            raise JournalError(f"{place}: {key}", was, expected)
    answers[answer.id] = answer


def decode_row(line: bytes, place: str) -> Answer:
    """Return the answer in one line of results.jsonl. Raises JournalError, with `place`, if it is not an answer."""
    shown = line.decode(errors="replace")
    try:
        row = read_json(line, allows_nan=True)  # `Answer.from_row` refuses it where no run writes it
    except ValueError:
        raise JournalError(place, shown, "it must be one JSON object; remove the line to compute it again") from None
    wrong = JournalError(place, shown, "it is not a row of results; remove the line to compute it again")
    if not isinstance(row, dict) or any(not isinstance(row.get(key), types) for key, types in _TYPES.items()):
        raise wrong
    try:
        if not math.isfinite(row["seconds"]) or not all(type(token) is int for token in row["answer_token_ids"]):
            raise wrong
        answer = Answer.from_row(row)
        # The derived values must exist and agree; unknown keys are ignored.
        row["transfers"] = [current_transfer(transfer) for transfer in row["transfers"]]
        agrees = all(_is_same(row[key], value) for key, value in answer.to_row().items())
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        raise wrong from None
    if not agrees:
        raise wrong
    return answer


def _is_same(stored: Any, value: Any) -> bool:
    """Whether two values of JSON are equal, NaN and NaN too."""
    if isinstance(stored, dict) and isinstance(value, dict):
        return stored.keys() == value.keys() and all(_is_same(stored[key], value[key]) for key in stored)
    if isinstance(stored, list) and isinstance(value, list):
        return len(stored) == len(value) and all(map(_is_same, stored, value))
    if isinstance(stored, float) and isinstance(value, float) and math.isnan(stored):
        return math.isnan(value)
    return bool(stored == value)


def _is_json(line: bytes) -> bool:
    try:
        read_json(line, allows_nan=True)
    except ValueError:
        return False
    return True
