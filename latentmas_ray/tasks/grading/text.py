"""Kind `text`: the final line of an answer, compared without case, white space and closing punctuation."""

import re

from latentmas_ray.patterns import LazyPattern
from latentmas_ray.tasks.grading.answer_text import last_box, last_boxes, normalise, plain
from latentmas_ray.tasks.grading.final_part import final_part
from latentmas_ray.tasks.grading.number import parse_number

_MARKER = LazyPattern(r"####|\banswer(?: is)?[ \t]{0,9}[*_]{0,3}[:：]", re.IGNORECASE)
_EDGES = " \t\r\n*_`"
_SEPARATOR = LazyPattern(r"(?:,(?![0-9]{3}(?![0-9]))|,[ ]|;|\band\b|\bor\b|\bund\b|\bet\b|&|、|和)", re.IGNORECASE)
_BRACKETS = "()[]{}$ \t"
_MAX_GAP = 60  # characters between the boxes of one answer
_MAX_PARTS = 10


def extract_text(answer: str, question: str = "", gold: str | None = None) -> str | None:
    """Return the last box, else the content of the last answer tag, else the line after the last "Answer:" or "####",
    else the whole answer; None if empty.

    If `gold` has several parts, as many boxes that stand together are joined: `\\boxed{3} and \\boxed{5}` is `3, 5`.
    `question` is what was asked, which a model may repeat.
    """
    found = final_part(answer, question)
    if joined := joined_boxes(found.text, gold):
        return ", ".join(plain(box).strip() for box in joined)
    if box := last_box(found.text):
        return box
    for marker in reversed(list(_MARKER.finditer(found.text))):
        end = found.text.find("\n", marker.end())
        line = found.text[marker.end() : end if end >= 0 else len(found.text)].strip(_EDGES)
        if not line and end >= 0:  # the answer is on the next line
            below = found.text[end : end + 2000].lstrip(_EDGES)
            line = below.partition("\n")[0].strip(_EDGES)
        if line:
            return line
    return found.text or None


def joined_boxes(text: str, gold: str | None) -> list[str]:
    """Return the contents of the last boxes, with their LaTeX, if they are as many as the parts of the gold and stand
    together, and the last alone has not all of them; else an empty list."""
    count = 1 if gold is None else len(split_parts(gold))
    box = last_box(text)
    if box is not None and len(split_parts(box)) == count:
        return []
    return last_boxes(text, count, _MAX_GAP) if 1 < count <= _MAX_PARTS else []


def same_text(prediction: str | None, gold: str) -> bool:
    """Whether a prediction equals the gold, normalised; of several parts, each the gold's in its place."""
    if prediction is None:
        return False
    if normalise(prediction) == normalise(gold):
        return True
    if len({_brackets(prediction), _brackets(gold)} - {""}) > 1:  # [1, 2) is not (1, 2]
        return False
    parts, expected = split_parts(prediction), split_parts(gold)
    return len(expected) > 1 and len(parts) == len(expected) and all(map(_is_same_part, parts, expected))


def split_parts(text: str) -> list[str]:
    """Return the parts of an answer that has several: `3, 5`, `(3; 5)`, `3 and 5`."""
    parts = [part.strip() for part in _SEPARATOR.split(plain(text).strip().strip(_BRACKETS))]
    return [part for part in parts if part]


def _brackets(text: str) -> str:
    """Return the brackets that enclose a text; empty without them."""
    bare = plain(text).strip(" \t$")
    return bare[0] + bare[-1] if bare[:1] and bare[0] in "([" and bare[-1] in ")]" else ""


def _is_same_part(part: str, expected: str) -> bool:
    value = parse_number(expected)
    return (value is not None and parse_number(part) == value) or normalise(part) == normalise(expected)
