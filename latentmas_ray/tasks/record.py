"""Checks one record of a question file or of the Python API: which field is what, and whether it can be used."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from latentmas_ray.errors import TaskError
from latentmas_ray.tasks.choices.fields import ID_NAMES, QUESTION_NAMES, find_key
from latentmas_ray.tasks.choices.images import check_no_image
from latentmas_ray.tasks.choices.options import Options, find_options
from latentmas_ray.tasks.grading.choice import options_of
from latentmas_ray.tasks.grading.code import code_question
from latentmas_ray.tasks.grading.code_record import check_code_record, some_keys
from latentmas_ray.tasks.question import KIND_FORM, KINDS, AnswerKind, Question
from latentmas_ray.tasks.registry import find_benchmark, plain_name

# Tasks that are not in the registry, but whose files are common.
_OTHER_TASKS: dict[str, AnswerKind] = {
    "facts": "number",
    "svamp": "number",
    "openbookqa": "choice",
    "mmlu": "choice",
    "math500": "math",
    "mbpp": "code",
    "humaneval": "code",
}
# Where a record without options may have its gold.
_GOLD_NAMES = ("gold", "answerkey", "answerletter", "correctanswer", "correctoption", "finalanswer", "answer", "target")
_BEFORE_GOLD = "####"  # in worked solutions such as GSM8K's


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A checked record whose kind and gold may still depend on other records.

    `where` is the prefix of fields in its errors. The gold is that of a record without options.
    """

    where: str
    id: str
    question: str
    gold: str | None
    kind: AnswerKind | None
    record: Mapping[str, Any]
    options: Options | None = None
    id_key: str = "id"
    question_key: str = "question"
    gold_key: str = "gold"


def check_record(
    record: Mapping[str, Any], *, where: str, default_id: str | None = None, needs_id: bool = False
) -> Draft:
    """Check the fields of a record. Raises TaskError, its field `where` and the key.

    A record without an id gets the default one. If it `needs_id`, then only in the form of another benchmark, many of
    which have no ids: with options, or other names for question or gold.
    """
    check_no_image(record, where)
    kind = _kind(record, where)
    if kind is None and "test" in record and ("prompt" in record or "entry_point" in record):
        kind = "code"
    if kind == "code":
        check_code_record(record, where, needs_prompt=True)
        record = {"question": code_question(dict(record)), **record}
    record = _flat(record)
    id_key, question_key = find_id(record), find_key(record, QUESTION_NAMES)
    if question_key is None:
        raise TaskError(f"{where}question", "nothing", f"every question needs question; keys are {some_keys(record)}")
    question = _text(record[question_key], f"{where}{question_key}", "a non-empty string")
    options = _options(record, question, where) if kind in (None, "choice") else None
    gold_key = "gold" if kind == "code" else find_key(record, ("gold",) if options else _GOLD_NAMES) or "gold"
    is_foreign = options is not None or (question_key, gold_key) != ("question", "gold")
    if id_key is None and (default_id is None or (needs_id and not is_foreign)):
        raise TaskError(f"{where}id", "nothing", f"every question needs id; keys are {some_keys(record)}")
    id_value = default_id if id_key is None else record[id_key]
    if isinstance(id_value, int) and not isinstance(id_value, bool):
        id_value = str(id_value)
    name = _text(id_value, f"{where}{id_key}", "a non-empty string or a whole number")
    return Draft(
        where=where,
        id=name,
        question=question,
        gold=None if options else _gold(record, gold_key, where),
        kind=kind,
        record={"id": name, **record} if id_key is None else dict(record),
        options=options,
        id_key=id_key or "",
        question_key=question_key,
        gold_key=gold_key,
    )


def find_id(record: Mapping[str, Any]) -> str | None:
    """Return the key of the record's id, None if it has none."""
    key = find_key(record, ID_NAMES)
    return key if key is None or key == "id" or isinstance(record[key], str | int) else None


def _options(record: Mapping[str, Any], question: str, where: str) -> Options | None:
    """Return the options in fields of their own; None if there are none, or only letters of those in the question."""
    options = find_options(record, where)
    if options is None or not options.are_letters:
        return options
    asked = Question(id="-", question=question, kind="choice", gold=None, record={})
    if len(options_of(asked)) != len(options.texts):
        expected = "these are letters without texts, and the question does not list the texts"
        raise TaskError(f"{where}{options.source}", list(options.texts.values()), expected)
    return None


def _flat(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the record with stem and options next to each other: some benchmarks have them in an object `question`."""
    question = record.get("question")
    if not isinstance(question, Mapping) or (stem := find_key(question, QUESTION_NAMES)) is None:
        return record
    inner = {key: value for key, value in question.items() if key not in (stem, "id") and key not in record}
    return {**record, **inner, "question": question[stem]}


def _text(value: object, field: str, expected: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise TaskError(field, value, f"it must be {expected}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise TaskError(field, value, "it must not have half of a surrogate pair") from None
    return value


def _gold(record: Mapping[str, Any], key: str, where: str) -> str | None:
    value = record.get(key)
    if value is None or (key != "gold" and (value == "" or not isinstance(value, str | int | float))):
        return None
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return str(value)
    expected = "a non-empty string or a finite number, or left out where there is no reference answer"
    text = _text(value, f"{where}{key}", expected)
    before, mark, after = text.rpartition(_BEFORE_GOLD)
    return after.strip().replace(",", "") if key != "gold" and mark and before.strip() and after.strip() else text


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
