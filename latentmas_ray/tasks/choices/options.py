"""Reads the options of a multiple-choice question from its record, in the forms that published benchmarks use."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from string import ascii_uppercase
from typing import Any

from latentmas_ray.errors import TaskError
from latentmas_ray.tasks.choices import fields
from latentmas_ray.tasks.choices.fields import find_key, keys_by_name
from latentmas_ray.tasks.choices.forms import COLUMN, MAX_OPTIONS, Items, items_of, without_labels
from latentmas_ray.tasks.choices.order import shuffled

_WRONG_COLUMN = re.compile(rf"(?:{'|'.join(fields.WRONG_PREFIXES)})(?:[a-z]|\d{{1,2}})")
_LETTERED_KEY = re.compile(r"[ _-][A-Za-z]$")  # option_s is the option after option_r


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of one question: their texts by capital letter, and what its record says about them."""

    texts: Mapping[str, str]
    labels: tuple[str, ...] = ()  # the record's own names for them, in the order of `texts`; empty if it has none
    is_from_0: bool = False  # they are numbered from 0
    marked: int | None = None  # the place of the one that is marked as right
    source: str  # the record's field, as told to the user
    keys: tuple[str, ...]  # the record's fields that hold them

    @property
    def are_letters(self) -> bool:
        """Whether the texts are the letters themselves, so that the options must stand elsewhere."""
        return all(text.strip("() .").upper() == letter for letter, text in self.texts.items())

    @property
    def letters(self) -> tuple[str, ...]:
        """The letters in order."""
        return tuple(self.texts)


def find_options(record: Mapping[str, Any], where: str) -> Options | None:
    """Return the options that a record has in fields of their own; None if it has none.

    Raises TaskError, its field `where` and the record's, for options that cannot be read, that are fewer than two or
    more than 26, and for two fields with different options.
    """
    found = [*_fields(record, where), *_columns(record, where)]
    if not found and (mixed := _right_and_wrong(record, where)) is not None:
        found = [mixed]
    for one, other in pairwise(found):
        if list(one.texts.values()) != list(other.texts.values()):
            expected = f"{one.source} has other options; keep one of the two"
            raise TaskError(f"{where}{other.source}", list(other.texts.values()), expected)
    if not found:
        return None
    best = next((one for one in found if one.marked is not None or one.labels), found[0])
    return Options(
        texts=best.texts,
        labels=best.labels,
        is_from_0=best.is_from_0,
        marked=best.marked,
        source=best.source,
        keys=tuple(key for one in found for key in one.keys),
    )


def _fields(record: Mapping[str, Any], where: str) -> list[Options]:
    """Read the fields that hold all options."""
    found = []
    for name, key in keys_by_name(record).items():
        value = record[key]
        is_weak = name in fields.WEAK_OPTION_NAMES
        if value is None or not (name in fields.OPTION_NAMES or is_weak) or _LETTERED_KEY.search(key):
            continue
        if is_weak and not (isinstance(value, list | tuple) and len(value) > 1 and _has_short_gold(record)):
            continue
        if name in ("choice", "option") and isinstance(value, str | int | float):
            continue  # what a person chose
        scores = find_key(record, [fields.SCORE_NAMES[name]]) if name in fields.SCORE_NAMES else None
        items = items_of(value, f"{where}{key}", has_gold=_has_gold(record))
        if scores is not None:
            items = items._replace(marks=record[scores])
        keys = (key,) if scores is None else (key, scores)
        found.append(_checked(items, f"{where}{key}", value, source=key, keys=keys))
    return found


def _columns(record: Mapping[str, Any], where: str) -> list[Options]:
    """Read the groups of fields that hold one option each, such as A, B, C or ending0, ending1."""
    groups: dict[str, dict[str, str]] = {}
    letters = {key.upper(): key for key in record if isinstance(key, str) and len(key) == 1 and key.isascii()}
    letters = {letter: letters[letter] for letter in ascii_uppercase if letter in letters}
    if _are_letter_columns(record, letters):
        groups[""] = {letter.lower(): key for letter, key in letters.items()}
    for name, key in keys_by_name(record).items():
        if name in fields.OPTION_NAMES | fields.WEAK_OPTION_NAMES and not _LETTERED_KEY.search(key):
            continue  # "options" is no option S
        if (match := COLUMN.fullmatch(name)) and isinstance(record[key], str | int | float | None):
            groups.setdefault(match["prefix"], {})[match["label"]] = key
    found = []
    for group in groups.values():
        labels = _series(group)
        if len(labels) < 2:
            continue
        present = [label for label in labels if record[group[label]] is not None]
        texts = [record[group[label]] for label in present]
        is_letters = labels[0] == "a"
        items = Items(texts, present if is_letters else (), is_from_0=labels[0] in ("0", "00"))
        source = f"{group[labels[0]]} … {group[labels[-1]]}"
        if missing := sorted(set(group) - set(labels), key=lambda label: label.zfill(2)):
            expected = f"the options before it are {source}; the ones between are missing"
            raise TaskError(f"{where}{group[missing[0]]}", record[group[missing[0]]], expected)
        keys = tuple(group[label] for label in labels)
        for text, label in zip(texts, present, strict=True):
            _option_text(text, f"{where}{group[label]}", "; null where there is no such option")
        found.append(_checked(items, f"{where}{source}", texts, source=source, keys=keys))
    return found


def _are_letter_columns(record: Mapping[str, Any], letters: Mapping[str, str]) -> bool:
    """Whether the fields A, B, … are options: A and B may as well be the numbers that a question is about."""
    if not {"A", "B"} <= set(letters):
        return False
    values = [record[key] for key in letters.values()]
    if all(isinstance(value, str | None) for value in values):
        return True
    if not all(isinstance(value, str | int | float | None) for value in values):
        return False
    golds = [str(record[key]) for _, key in fields.gold_keys(record) if record[key] is not None]
    known = {*letters, *map(str, values), *map(str, range(len(values) + 1))}
    return bool(golds) and golds[0].strip(" ().").upper() in known


def _series(group: Mapping[str, str]) -> list[str]:
    """Return the labels of the group that follow one another from a, 0 or 1."""
    for series in (
        [letter.lower() for letter in ascii_uppercase],
        [str(n) for n in range(100)],
        [str(n) for n in range(1, 100)],
    ):
        if series[0] in group:
            length = next((index for index, label in enumerate(series) if label not in group), len(series))
            return series[:length]
    return []


def _right_and_wrong(record: Mapping[str, Any], where: str) -> Options | None:
    """Read a right answer and wrong ones in fields of their own. Their order depends on the question only."""
    right = find_key(record, fields.CORRECT_NAMES)
    by_name = keys_by_name(record)
    lists = [by_name[name] for name in fields.WRONG_LIST_NAMES if isinstance(record.get(by_name.get(name, "")), list)]
    columns = [key for name, key in by_name.items() if _WRONG_COLUMN.fullmatch(name) and record[key] is not None]
    if right is None or not (lists or columns):
        return None
    keys = (right, *(lists[:1] or columns))
    wrong = list(record[lists[0]]) if lists else [record[key] for key in columns]
    texts = [
        _option_text(text, f"{where}{keys[0] if not n else keys[-1]}") for n, text in enumerate([record[right], *wrong])
    ]
    question_id = find_key(record, fields.ID_NAMES)
    name = str(record[question_id]) if question_id else str(record.get("question", ""))
    ordered = shuffled(name, texts)
    items = Items(ordered, marks=[text is texts[0] for text in ordered])
    source = f"{right} and {keys[1]}"
    return _checked(items, f"{where}{keys[1]}", wrong, source=source, keys=keys)


def _checked(items: Items, field: str, value: Any, *, source: str, keys: tuple[str, ...]) -> Options:
    """Return the options with their letters. Raises TaskError for what cannot be asked."""
    texts = [_option_text(text, field) for text in items.texts]
    labels = [str(label).strip() for label in items.labels]
    if not 2 <= len(texts) <= MAX_OPTIONS:
        expected = f"it has {len(texts)} options; it must have 2 to {MAX_OPTIONS}"
        raise TaskError(
            field, value, f"{expected}; leave the field out where a question has none" if not texts else expected
        )
    if labels and len(labels) != len(texts):
        raise TaskError(field, value, f"it has {len(texts)} texts and {len(labels)} labels; it must have as many")
    if len({label.upper() for label in labels}) < len(labels):
        raise TaskError(field, value, "its labels must differ")
    texts, labels = without_labels(texts, labels)
    is_lettered = bool(labels) and all(len(label) == 1 and label.upper() in ascii_uppercase for label in labels)
    order = sorted(range(len(texts)), key=lambda index: labels[index].upper()) if is_lettered else range(len(texts))
    letters = [labels[index].upper() for index in order] if is_lettered else list(ascii_uppercase[: len(texts)])
    marked = _marked(items.marks, len(texts), field, value)
    return Options(
        texts={letter: texts[index] for letter, index in zip(letters, order, strict=True)},
        labels=tuple(labels[index] for index in order) if labels else (),
        is_from_0=items.is_from_0 or "0" in labels,
        marked=None if marked is None else list(order).index(marked),
        source=source,
        keys=keys,
    )


def _option_text(text: Any, field: str, more: str = "") -> str:
    if isinstance(text, bool | int) or (isinstance(text, float) and math.isfinite(text)):
        text = str(text)
    if not isinstance(text, str) or not text.strip():
        raise TaskError(field, text, f"every option must be a non-empty text{more}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise TaskError(field, text, "it must not have half of a surrogate pair") from None
    return text.strip()


def _marked(marks: Sequence[Any], num_options: int, field: str, value: Any) -> int | None:
    """Return the place of the option that is marked as right."""
    if not marks:
        return None
    if not isinstance(marks, list | tuple) or len(marks) != num_options:
        raise TaskError(field, value, f"it must say of each of the {num_options} options whether it is right")
    right = [index for index, mark in enumerate(marks) if mark in (1, True, "true", "True", "1")]
    if len(right) != 1:
        raise TaskError(field, value, f"it marks {len(right)} options as right; it must be one")
    return right[0]


def _has_gold(record: Mapping[str, Any]) -> bool:
    return any(record[key] is not None for _, key in fields.gold_keys(record))


def _has_short_gold(record: Mapping[str, Any]) -> bool:
    """Whether the gold is a letter or a number, which is no text that answers a question."""
    values = [record[key] for _, key in fields.gold_keys(record) if record[key] is not None]
    first = values[0] if values else ""
    return isinstance(first, int) or (
        isinstance(first, str) and re.fullmatch(r"[A-Za-z]|\d{1,2}", first.strip()) is not None
    )
