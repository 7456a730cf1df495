"""Recognises the questions that the embedded models were trained for: those of the tasks `chain` and `notes`.

A question must match in grammar, words and range of numbers: with other names, items or larger numbers their
answers are often wrong. `tasks/chain.py` and `tasks/notes.py` generate such questions.
"""

import inspect
import re
import warnings
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import pairwise
from typing import Literal, NamedTuple

from latentmas_ray.config import EMBEDDED_MODELS
from latentmas_ray.errors import UntrainedQuestionWarning
from latentmas_ray.tasks.chain import LESS, MAX_CHANGE, MAX_START, MAX_STEPS, MAX_VALUE, MORE, TWICE
from latentmas_ray.tasks.names import HELD_OUT_NAMES, ITEMS, TRAIN_NAMES
from latentmas_ray.tasks.notes import MAX_COUNT, MAX_FACTS, MIN_COUNT, NUM_EXPERTS
from latentmas_ray.tasks.question import Question

TrainedTask = Literal["chain", "notes"]

EXAMPLE_OF_CHAIN = "Nadia has 5 beads. Then Nadia finds 3 more. How many beads has Nadia now?"
EXAMPLE_OF_NOTES = "Tom has 7 keys. Uma has 4 keys. Zoe has 9 keys. How many keys have Tom and Zoe together?"


def abilities(model: str) -> str:
    """Return what an embedded model can be asked."""
    return f"the embedded model {model} only knows questions in the words of its training, such as {EXAMPLE_OF_CHAIN!r}"


_NAME = f"(?:{'|'.join((*TRAIN_NAMES, *HELD_OUT_NAMES))})"
_ITEM = f"(?P<item>{'|'.join(ITEMS)})"
_NUMBER = r"[1-9]\d?"


def _change(form: str, mark: str) -> str:
    """Return `gets {n} from {other}` as a pattern with the number in the group `mark`."""
    return form.replace("{n}", f"(?P<{mark}>{_NUMBER})").replace("{other}", _NAME)


class _Patterns(NamedTuple):
    """The grammar of the two tasks."""

    chain: re.Pattern[str]
    changes: tuple[tuple[int, re.Pattern[str]], ...]  # (sign, one step of a chain)
    fact: re.Pattern[str]
    about_notes: tuple[re.Pattern[str], ...]


@cache
def _patterns() -> _Patterns:
    # Compiled when first needed: every actor imports this module, and the patterns take longer to compile than it does
    # to import.
    look_up = rf"How many {_ITEM} has {_NAME}\?"
    total = rf"How many {_ITEM} have {_NAME}(?:, {_NAME})? and {_NAME} together\?"
    difference = rf"How many more {_ITEM} has {_NAME} than {_NAME}\?"
    comparison = rf"Who has more {_ITEM}: \(A\) {_NAME} or \(B\) {_NAME}\?"
    forms = [(sign, form) for sign, forms in ((1, MORE), (-1, LESS), (0, TWICE)) for form in forms]
    return _Patterns(
        chain=re.compile(
            rf"(?P<name>{_NAME}) has (?P<start>{_NUMBER}) {_ITEM}\.(?P<changes>(?: Then (?P=name) [^.?]+\.)+)"
            r" How many (?P=item) has (?P=name) now\?"
        ),
        changes=tuple((sign, re.compile(_change(form, "n"))) for sign, form in forms),
        fact=re.compile(rf"(?P<name>{_NAME}) has (?P<count>{_NUMBER}) {_ITEM}\."),
        about_notes=tuple(map(re.compile, (look_up, total, difference, comparison))),
    )


def trained_task(text: str, *, has_memory: bool = False) -> TrainedTask | None:
    """Return the task of a question, or None.

    In a question about notes, the facts come first, one per sentence, and then the question. With `has_memory` the
    facts may be missing: the answering agent reads them in the memory.
    """
    text = " ".join(text.split())
    if _is_chain(text):
        return "chain"
    facts, question = _split_facts(text)
    if any(form.fullmatch(question) for form in _patterns().about_notes):
        return "notes" if _are_notes(facts, question) or (has_memory and not facts) else None
    return None


def with_notes(text: str) -> dict[str, object]:
    """Return the record of a question about notes: `notes` has its facts, split evenly among the experts in order.

    Raises ValueError unless `trained_task` returns `notes`.
    """
    if trained_task(text) != "notes":
        raise ValueError(f"not a question about notes: {text!r}")
    facts, question = _split_facts(" ".join(text.split()))
    bounds = [len(facts) * expert // NUM_EXPERTS for expert in range(NUM_EXPERTS + 1)]
    notes = [" ".join(facts[begin:end]) for begin, end in pairwise(bounds)]
    return {"question": question, "notes": notes}


def warn_of_untrained(model: str, questions: Iterable[Question]) -> None:
    """Warn (UntrainedQuestionWarning) if `model` is an embedded one and was not trained for one of `questions`.

    The facts of a question about notes may be in its record's `notes` or in a memory, so only its text is checked.
    """
    if model in EMBEDDED_MODELS and any(trained_task(one.question, has_memory=True) is None for one in questions):
        message = f"{abilities(model)}; its answers to other questions mean nothing; use a model of your own"
        warnings.warn(message, UntrainedQuestionWarning, stacklevel=_caller_level())


def _caller_level() -> int:
    """Return the `stacklevel` of the first caller outside this package."""
    level, frame = 0, inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").startswith("latentmas_ray."):
        level, frame = level + 1, frame.f_back
    return level


def _is_chain(text: str) -> bool:
    found = _patterns().chain.fullmatch(text)
    if found is None:
        return False
    value = int(found["start"])
    changes = found["changes"].removesuffix(".").split(".")
    if not 2 <= value <= MAX_START or len(changes) > MAX_STEPS:
        return False
    for change in changes:
        step = _step(change.strip().removeprefix(f"Then {found['name']} "))
        if step is None:
            return False
        value += step or value
        if not 1 <= value <= MAX_VALUE:
            return False
    return True


def _step(change: str) -> int | None:
    """Return the signed number of a change, 0 for doubling, None if the task has no such change."""
    for sign, form in _patterns().changes:
        if (found := form.fullmatch(change)) is not None:
            number = sign * int(found["n"]) if sign else 0
            return number if abs(number) <= MAX_CHANGE else None
    return None


def _split_facts(text: str) -> tuple[list[str], str]:
    """Return the sentences before the last one, and the last one."""
    *facts, question = re.split(r"(?<=\.) ", text)
    return facts, question


def _are_notes(facts: Sequence[str], question: str) -> bool:
    """Whether these are facts for all experts about one kind of item, with distinct names that include those asked."""
    found = [_patterns().fact.fullmatch(fact) for fact in facts]
    if not NUM_EXPERTS <= len(found) <= NUM_EXPERTS * MAX_FACTS:
        return False
    counts = {one["name"]: int(one["count"]) for one in found if one}
    items = {one["item"] for one in found if one}
    asked = re.findall(rf"\b{_NAME}\b", question)
    return (
        len(counts) == len(facts)
        and len(items) == 1
        and items.pop() in question
        and all(MIN_COUNT <= count <= MAX_COUNT for count in counts.values())
        and len(set(asked)) == len(asked)
        and set(asked) <= set(counts)
    )
