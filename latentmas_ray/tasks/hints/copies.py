"""The copies of a question, one for each of its hints. Each is a question of its own for a run: with an id, and so with
random numbers, of its own.

A copy's record has `hint` (the text that the task wrote, empty if the abstraction agent makes one), `hint_number` (from
1) and `num_hints`, for the prompts; and `wrong_hint` if the record has `wrong_hints`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from latentmas_ray.config import HintSource
from latentmas_ray.errors import ConfigError, TaskError
from latentmas_ray.tasks.question import HintCopy, Question

FIELD = "hints"
_WRONG_FIELD = f"wrong_{FIELD}"
_FORM = "it must be a list of texts that are not empty"


def copies_for_hints(
    questions: Iterable[Question], count: int, source: HintSource, *, written_as: str = "", has_hints: bool = True
) -> list[Question]:
    """Return `count` copies of each question, next to each other. What other agents see instead is copied, too; then
    the hints are those of that question.

    `written_as` is the agent as whose text the answering agent reads hints that the task wrote; empty if it does not
    read them as text. Without `has_hints` no copy has any. Raises ConfigError, its field abstractions or hints, for a
    question with too few hints or none, and TaskError for malformed ones.
    """
    return [
        _copy(question, number, count, source, written_as, has_hints=has_hints)
        for question in questions
        for number in range(1, count + 1)
    ]


def copy_id(question_id: str, number: int) -> str:
    """Return the id of the copy for the hint of this number."""
    return f"{question_id}.hint-{number}"


def _copy(
    question: Question, number: int, count: int, source: HintSource, written_as: str, *, has_hints: bool
) -> Question:
    seen = question.seen_by_others
    others = None if seen is None else _copy(seen, number, count, source, written_as, has_hints=has_hints)
    is_given = source == "oracle" and has_hints
    text = _written(question, FIELD, count)[number - 1] if is_given else ""
    added: dict[str, Any] = {"hint": text, "hint_number": number, "num_hints": count}
    if is_given and _WRONG_FIELD in question.record:
        added["wrong_hint"] = _written(question, _WRONG_FIELD, count)[number - 1]
    read = text if others is None else str(others.record["hint"])
    return replace(
        question,
        id=copy_id(question.id, number),
        record={**question.record, **added},
        seen_by_others=others,
        hint=HintCopy(
            question=question.id,
            number=number,
            of=count,
            source=source,
            text=read if is_given else None,
            written_as=written_as if is_given else "",
        ),
    )


def _written(question: Question, field: str, count: int) -> Sequence[str]:
    """Return at least `count` hints from the record."""
    record: Mapping[str, Any] = question.record
    if field not in record:
        expected = (
            f"question {question.id} has no field {field}: a list of texts, as the tasks chain, notes and facts have"
        )
        raise ConfigError("hints", "oracle", expected)
    found = record[field]
    if not isinstance(found, list | tuple) or not all(isinstance(one, str) and one.strip() for one in found):
        raise TaskError(f"question {question.id}: {field}", found, _FORM)
    if len(found) < count:
        expected = f"question {question.id} has {len(found)} {field}: with hints oracle it must be at most {len(found)}"
        raise ConfigError("abstractions", count, expected)
    return found
