"""Reading and checking the rows of results.jsonl."""

import json
from collections.abc import Mapping
from pathlib import Path

from latentmas_ray.config import current_transfer
from latentmas_ray.errors import JournalError
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
    content = path.read_bytes()
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
        row = json.loads(line)
    except ValueError:
        raise JournalError(place, shown, "it must be one JSON object; remove the line to compute it again") from None
    wrong = JournalError(place, shown, "it is not a row of results; remove the line to compute it again")
    if not isinstance(row, dict) or any(not isinstance(row.get(key), types) for key, types in _TYPES.items()):
        raise wrong
    try:
        answer = Answer.from_row(row)
        # The derived values must exist and agree; unknown keys are ignored.
        row["transfers"] = [current_transfer(transfer) for transfer in row["transfers"]]
        agrees = all(row[key] == value for key, value in answer.to_row().items())
    except (KeyError, TypeError, ValueError, AttributeError):
        raise wrong from None
    if not agrees:
        raise wrong
    return answer


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
