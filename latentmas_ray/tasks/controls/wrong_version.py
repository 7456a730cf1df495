"""The wrong version of a question: some fields of its record, and the answer that follows from them.

A record has it in fields whose names begin with `wrong_`: `wrong_notes` in place of `notes`, say, for any of its
fields, and `wrong_gold`, the answer that follows from them. The generated tasks make such fields themselves.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from latentmas_ray.errors import TaskError
from latentmas_ray.tasks.choices.shown import PartlyShownError, with_options
from latentmas_ray.tasks.grading.choice import choice_letter, options_of
from latentmas_ray.tasks.grading.number import parse_number
from latentmas_ray.tasks.grading.text import same_text
from latentmas_ray.tasks.question import Question

PREFIX = "wrong_"
WRONG_GOLD = f"{PREFIX}gold"
_FORM = (
    f"its record needs a gold, {WRONG_GOLD}, and the fields that this follows from, such as {PREFIX}notes in place of "
    "notes; the tasks notes, chain and facts have them"
)


def wrong_fields(record: Mapping[str, Any]) -> dict[str, str]:
    """Return the fields of a record that have a wrong version, and the keys of those; empty without `wrong_gold`. No
    prompt may show them."""
    if WRONG_GOLD not in record:
        return {}
    named = {key.removeprefix(PREFIX): key for key in record if isinstance(key, str) and key.startswith(PREFIX)}
    return {name: key for name, key in named.items() if name in record or name == "gold"}


def wrong_version(question: Question) -> Question:
    """Return the wrong version of a question, with the same id. Raises TaskError if its record has none, and if that
    has the same gold or no rule can say whether an answer follows from it."""
    where = f"question {question.id}: "
    changed = {name: question.record[key] for name, key in wrong_fields(question.record).items() if name != "gold"}
    if not changed or question.gold is None:
        missing = "gold" if question.gold is None else "wrong version"
        raise TaskError("memory", "corrupted", f"question {question.id} has no {missing}: {_FORM}")
    if question.kind == "code":
        raise TaskError(f"{where}{WRONG_GOLD}", "code", "code is graded by tests: no rule says what follows from it")
    gold = question.record[WRONG_GOLD]
    if isinstance(gold, bool) or not isinstance(gold, str | int | float) or not str(gold).strip():
        raise TaskError(f"{where}{WRONG_GOLD}", gold, "it must be a non-empty string or a number")
    gold = str(gold)
    record = {key: value for key, value in question.record.items() if key not in wrong_fields(question.record).values()}
    record |= changed | {"gold": gold}
    text = changed.get("question", question.question)
    if not isinstance(text, str) or not text.strip():
        raise TaskError(f"{where}{PREFIX}question", text, "it must be a non-empty string")
    if "question" in changed and question.options is not None:
        text = _with_options(question, text, where)
        record["stem"] = changed["question"]
    wrong = replace(question, question=text, gold=gold, record=record)
    if _is_same_gold(wrong, question.gold, gold, where):
        raise TaskError(f"{where}{WRONG_GOLD}", gold, f"it must differ from the gold {question.gold!r}")
    return wrong


def _with_options(question: Question, text: str, where: str) -> str:
    assert question.options is not None
    try:
        return with_options(text, question.options.texts)
    except PartlyShownError as error:
        raise TaskError(f"{where}{PREFIX}question", text, f"{error}; it must have all options, or none") from None


def _is_same_gold(question: Question, gold: str, wrong: str, where: str) -> bool:
    """Whether an answer could be right and follow from the wrong version. Raises TaskError for no option."""
    if question.kind == "number" and (number := parse_number(gold)) is not None:
        return parse_number(wrong) == number
    if question.kind == "choice":
        options = options_of(question)
        letter = choice_letter(wrong, options)
        if letter is None:
            raise TaskError(f"{where}{WRONG_GOLD}", wrong, f"for kind choice it must be one of {', '.join(options)}")
        return letter == choice_letter(gold, options)
    return same_text(wrong, gold)
