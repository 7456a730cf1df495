"""The forms in which one field of a record holds options: a list, an object, text."""

import ast
import json
import re
from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any, NamedTuple

from latentmas_ray.errors import TaskError
from latentmas_ray.tasks.choices.fields import COLUMN_PREFIXES, find_key, plain_key

MAX_OPTIONS = len(ascii_uppercase)
COLUMN = re.compile(rf"(?P<prefix>{'|'.join(COLUMN_PREFIXES)})(?P<label>[a-z]|\d{{1,2}})")

_MAX_LITERAL_CHARS = 100_000  # of a list that is written as text
_LABELLED = re.compile(r"\s*[(\[]?\s*(?P<label>[A-Za-z]|\d{1,2})\s?[)\].:、．]\s*(?P<text>\S.*)", re.DOTALL)
_INLINE_LABEL = re.compile(r"(?:^|(?<=[\s,;|]))[(\[]?([A-Za-z])\s?[)\].:]\s*")
_FORM = "it must be a list of at least two texts, or an object of letters and texts"
_TEXT_KEYS = ("text", "texts", "choices", "options")
_LABEL_KEYS = ("label", "labels", "key", "keys", "letter", "letters")
_ITEM_TEXTS = ("text", "content", "option", "choice", "answer", "value")
_ITEM_LABELS = ("label", "key", "letter", "id", "identifier")
_ITEM_MARKS = ("correct", "iscorrect", "isanswer", "isright")


class Items(NamedTuple):
    """Options as a field holds them, before they are checked."""

    texts: Sequence[Any]
    labels: Sequence[Any] = ()
    marks: Sequence[Any] = ()  # true or 1 for the right one
    is_from_0: bool = False


def items_of(value: Any, field: str, *, has_gold: bool) -> Items:
    """Return the texts and labels of one field's value."""
    if isinstance(value, str):
        return _of_text(value, field, has_gold=has_gold)
    if isinstance(value, list | tuple):
        if value and all(isinstance(item, Mapping) for item in value):
            return _of_objects(value, field)
        return Items(value)
    if not isinstance(value, Mapping):
        raise TaskError(field, value, _FORM)
    by_name = {plain_key(key): item for key, item in value.items() if isinstance(key, str)}
    texts = next((by_name[key] for key in _TEXT_KEYS if isinstance(by_name.get(key), list | tuple)), None)
    if texts is not None:
        labels = next((by_name[key] for key in _LABEL_KEYS if isinstance(by_name.get(key), list | tuple)), ())
        are_marks = bool(labels) and all(label in (0, 1) and not isinstance(label, str) for label in labels)
        if are_marks and (len(set(labels)) < len(labels) or not has_gold):
            return Items(texts, marks=labels)
        return Items(texts, labels)
    if value and all(mark in (0, 1) and not isinstance(mark, str) for mark in value.values()):
        return Items(list(value), marks=list(value.values()))
    return _of_letters(value, field)


def _of_letters(value: Mapping[Any, Any], field: str) -> Items:
    """Read {"A": "Paris", "B": "Rome"}, {"1": …}, {"option_a": …}. An option that is null does not exist."""
    by_label: dict[str, Any] = {}
    for key, text in value.items():
        name = plain_key(str(key))
        match = COLUMN.fullmatch(name)
        label = match["label"] if match else name
        if not (label.isdecimal() or (len(label) == 1 and label.upper() in ascii_uppercase)) or label in by_label:
            raise TaskError(field, value, f"{_FORM} (its key {str(key)!r} is neither a letter nor a number)")
        by_label[label] = text
    if len({label.isdecimal() for label in by_label}) > 1:
        raise TaskError(field, value, f"{_FORM}; some of its keys are letters and others are numbers")
    ordered = sorted((label for label in by_label if by_label[label] is not None), key=lambda label: label.zfill(9))
    return Items([by_label[label] for label in ordered], ordered)


def _of_objects(value: Sequence[Mapping[str, Any]], field: str) -> Items:
    """Read [{"label": "A", "text": "Paris"}, …]; an object may say whether it is right."""
    texts, labels, marks = [], [], []
    for item in value:
        text, label, mark = (find_key(item, keys) for keys in (_ITEM_TEXTS, _ITEM_LABELS, _ITEM_MARKS))
        if text is None and len(item) == 1:  # {"A": "Paris"}
            (label_of, text_of), *_ = item.items()
            texts.append(text_of)
            labels.append(label_of)
            continue
        if text is None:
            raise TaskError(field, dict(item), "every option must be a text, or an object with label and text")
        texts.append(item[text])
        labels += [] if label is None else [item[label]]
        marks += [] if mark is None else [item[mark]]
    if labels and len(labels) < len(texts):
        raise TaskError(field, list(value), "all options must have a label, or none")
    return Items(texts, labels, marks)


def _of_text(value: str, field: str, *, has_gold: bool) -> Items:
    """Read a list that is written as text: JSON, Python, `a) 3, b) 4`, or one option a line."""
    text = value.strip()
    if text[:1] in ("[", "{") and len(text) <= _MAX_LITERAL_CHARS:
        for read in (json.loads, ast.literal_eval):
            try:
                literal = read(text)
            except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
                continue
            if isinstance(literal, list | tuple | dict):
                return items_of(literal, field, has_gold=has_gold)
    marks: list[re.Match[str]] = []
    for match in _INLINE_LABEL.finditer(text):
        if len(marks) < MAX_OPTIONS and match[1].upper() == ascii_uppercase[len(marks)]:
            marks.append(match)
    if len(marks) > 1 and marks[0].start() == 0:
        ends = [*(mark.start() for mark in marks[1:]), len(text)]
        parts = [text[mark.end() : end].strip().rstrip(",;|").rstrip() for mark, end in zip(marks, ends, strict=True)]
        return Items(parts, [mark[1] for mark in marks])
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) < 2:
        raise TaskError(field, value, _FORM)
    return Items(lines)


def without_labels(texts: list[str], labels: list[str]) -> tuple[list[str], list[str]]:
    """Return texts such as `A. Paris` without their labels, and the labels, if all texts have them, in order."""
    matches = [_LABELLED.fullmatch(text) for text in texts]
    found = [match["label"] for match in matches if match is not None]
    if len(found) < len(texts):
        return texts, labels
    wanted = [label.upper() for label in labels]
    series = {"".join(ascii_uppercase[: len(texts)]), *("".join(map(str, range(n, n + len(texts)))) for n in (0, 1))}
    # 1.5 is a number and no first option.
    is_number = any(
        label.isdecimal() and re.match(r"\s*\d+[.:]\d", text) for label, text in zip(found, texts, strict=True)
    )
    if is_number or ([label.upper() for label in found] != wanted and "".join(found).upper() not in series):
        return texts, labels
    return [match["text"].strip() for match in matches if match is not None], labels or found
