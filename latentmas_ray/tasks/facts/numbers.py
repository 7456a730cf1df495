"""Says whose numbers an answer has: those of its question's own notes, or of the notes that were read instead.

A small model often names a fact that it was not asked for. That is a wrong answer, and still shows that the memory
carried the fact, which accuracy alone hides.
"""

import re

from latentmas_ray.tasks.question import NumberSource, Question

TASK = "facts"

_DIGITS = re.compile(r"[0-9]+")
_MAX_DIGITS = 18  # longer runs are noise


def numbers_from(question: Question, answer: str) -> NumberSource | None:
    """Return whose numbers an answer has, if the question's record names the task `facts` and has `notes`; else None.

    own: a number of the question's own notes. other: one of the notes that the other agents were given instead (control
    `deranged`). both, or none. A number is a whole run of digits; a number that both notes have counts as own.
    """
    notes = question.record.get("notes")
    if question.record.get("task") != TASK or notes is None:
        return None
    seen = question.seen_by_others
    own = _numbers(notes)
    others = set() if seen is None else _numbers(seen.record.get("notes")) - own
    found = _numbers(answer)
    if found & own:
        return "both" if found & others else "own"
    return "other" if found & others else "none"


def _numbers(texts: object) -> set[int]:
    """Return the numbers in a text, or in a list of texts."""
    return {int(digits) for digits in _DIGITS.findall(str(texts)) if len(digits) <= _MAX_DIGITS}
