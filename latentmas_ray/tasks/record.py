"""Converts a record from a question file or from the Python API to a `Question`."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

from latentmas_ray.errors import TaskError
from latentmas_ray.tasks.grading.choice import choice_letter, options_of
from latentmas_ray.tasks.grading.code import code_question
from latentmas_ray.tasks.grading.code_record import check_code_record, some_keys
from latentmas_ray.tasks.grading.number import is_plain_number
from latentmas_ray.tasks.question import KIND_FORM, KINDS, AnswerKind, Question
from latentmas_ray.tasks.registry import find_benchmark, plain_name

# Tasks that are not in the registry, but whose files are common.
_OTHER_TASKS: dict[str, AnswerKind] = {
    "svamp": "number",
    "openbookqa": "choice",
    "mmlu": "choice",
    "math500": "math",
    "mbpp": "code",
    "humaneval": "code",
}


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A checked record whose kind may still depend on other records. `where` is the prefix of fields in its errors."""

    where: str
    id: str
    question: str
    gold: str | None
    kind: AnswerKind | None
    record: Mapping[str, Any]

    def finished(self, inferred: AnswerKind) -> Question:
        """Return the question, of kind `inferred` if the record names none. Raises TaskError for a gold that does not
        fit the kind."""
        kind = self.kind or inferred
        question = Question(id=self.id, question=self.question, kind=kind, gold=self.gold, record=self.record)
        return _with_letter(question, self.where)


class KindInference:
    """Infers the kind of answers from all golds added. Records that name their kind are ignored."""

    def __init__(self) -> None:
        self._num_golds = 0
        self._all_numbers = True
        self._all_letters = True

    def add(self, draft: Draft) -> None:
        """Add one record."""
        if draft.kind is None and draft.gold is not None:
            gold = draft.gold.strip()
            self._num_golds += 1
            self._all_numbers = self._all_numbers and is_plain_number(gold)
            self._all_letters = self._all_letters and len(gold) == 1 and gold.isascii() and gold.isalpha()

    @property
    def kind(self) -> AnswerKind:
        if self._num_golds and self._all_numbers:
            return "number"
        return "choice" if self._num_golds and self._all_letters else "text"


def questions_from(given: Iterable[Question | Mapping[str, Any] | str]) -> list[Question]:
    """Convert what the Python API is given, in that order. A question without an id gets `q{index}`, or `q{index}_2`
    and so on if that is in use.

    Raises TaskError as `question_from` does; for a repeated id, with the field `questions[INDEX]: id`; and for a single
    question, whose characters or keys would be taken for questions.
    """
    if isinstance(given, str | Mapping | Question) or not isinstance(given, Iterable):
        raise TaskError("questions", given, "it must be a list of questions; write a single one in brackets")
    asked = list(given)
    questions: dict[int, Question] = {}
    index_of_id: dict[str, int] = {}
    for index, one in enumerate(asked):
        if isinstance(one, Question) or (isinstance(one, Mapping) and "id" in one):
            question = question_from(one, index=index)
            if (other := index_of_id.setdefault(question.id, index)) != index:
                expected = f"ids must differ; questions[{other}] has the same"
                raise TaskError(f"questions[{index}]: id", question.id, expected)
            questions[index] = question
    for index, one in enumerate(asked):
        if index not in questions:
            names = (f"q{index}" if number == 1 else f"q{index}_{number}" for number in count(1))
            free = next(name for name in names if name not in index_of_id)
            questions[index] = question_from(one, index=index, default_id=free)
    return [questions[index] for index in range(len(asked))]


def question_from(record: Question | Mapping[str, Any] | str, *, index: int, default_id: str | None = None) -> Question:
    """Convert a record, or a plain string (kind text, no gold). A `Question` is checked and returned. The default id is
    `default_id`, or `q{index}`.

    A record without a kind gets that of its `task`, else one inferred from its gold. Raises TaskError, its field
    `questions[INDEX]: KEY`.
    """
    where = f"questions[{index}]"
    if isinstance(record, Question):
        return _with_letter(record, f"{where}: ")
    if isinstance(record, str):
        record = {"question": record}
    if not isinstance(record, Mapping):
        raise TaskError(where, record, "a question must be a string or a mapping with a question")
    draft = check_record({"id": default_id or f"q{index}", **record}, where=f"{where}: ")
    inference = KindInference()
    inference.add(draft)
    return draft.finished(inference.kind)


def check_record(record: Mapping[str, Any], *, where: str) -> Draft:
    """Check the fields of a record. Raises TaskError, its field `where` and the key."""
    kind = _kind(record, where)
    if kind is None and "test" in record and ("prompt" in record or "entry_point" in record):
        kind = "code"
    if kind == "code":
        check_code_record(record, where, needs_prompt=True)
        record = {"question": code_question(dict(record)), **record}
    for key in ("id", "question"):
        if key not in record:
            raise TaskError(f"{where}{key}", "nothing", f"every question needs {key}; keys are {some_keys(record)}")
    id_value = record["id"]
    if isinstance(id_value, int) and not isinstance(id_value, bool):
        id_value = str(id_value)
    return Draft(
        where=where,
        id=_text(id_value, f"{where}id", "a non-empty string or a whole number"),
        question=_text(record["question"], f"{where}question", "a non-empty string"),
        gold=_gold(record.get("gold"), f"{where}gold"),
        kind=kind,
        record=dict(record),
    )


def _with_letter(question: Question, where: str) -> Question:
    """Return the question. Raises TaskError if the gold of a choice is not an option: no answer would be right."""
    if question.kind == "choice" and question.gold is not None:
        options = options_of(question)
        if choice_letter(question.gold, options) is None:
            letters = f"one of {', '.join(options)}" if options else "such as B"
            raise TaskError(f"{where}gold", question.gold, f"for kind choice it must be a letter, {letters}")
    return question


def _text(value: object, field: str, expected: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise TaskError(field, value, f"it must be {expected}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise TaskError(field, value, "it must not have half of a surrogate pair") from None
    return value


def _gold(value: object, field: str) -> str | None:
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return str(value)
    return _text(value, field, "a non-empty string or a finite number, or left out where there is no reference answer")


def _kind(record: Mapping[str, Any], where: str) -> AnswerKind | None:
    named = record.get("kind")
    for kind in KINDS:
        if named == kind:
            return kind
    if named is not None:
        raise TaskError(f"{where}kind", named, KIND_FORM)
    task = record.get("task")
    if not isinstance(task, str):
        return None
    benchmark = find_benchmark(task)
    return benchmark.kind if benchmark else _OTHER_TASKS.get(plain_name(task))
