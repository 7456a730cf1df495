"""Turns checked records into questions: what one record leaves open the others decide, and what differs is noted."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from latentmas_ray.errors import TaskError
from latentmas_ray.tasks.choices.fields import OPTION_NAMES, plain_key
from latentmas_ray.tasks.choices.golds import GoldReader, means_option
from latentmas_ray.tasks.choices.options import Options, find_options
from latentmas_ray.tasks.choices.shown import PartlyShownError, with_options
from latentmas_ray.tasks.grading.choice import choice_letter, options_of
from latentmas_ray.tasks.grading.number import is_plain_number, parse_number
from latentmas_ray.tasks.question import AnswerKind, Question
from latentmas_ray.tasks.record import Draft

_LETTER = re.compile(r"[A-Za-z]|[(\[][A-Za-z][)\]]|[A-Z][).]")
_COLUMN = re.compile(r"(.*[A-Za-z][ _-]?)(?:(?<=[ _-])([A-Za-z])|(\d))")
_MAX_OUTLIERS = 0.05  # of the golds, or one
# Lists that are seldom options, though a gold may look like one of their items.
_NO_OPTIONS = {"notes", "tags", "keywords", "topics", "categories", "steps", "facts", "hints", "sources", "references"}


@dataclass(frozen=True)
class _Open:
    """A record whose kind the others decide: its gold, and the kind that it would have alone."""

    where: str
    field: str
    gold: str | None
    kind: AnswerKind | None  # number, choice (a letter, or a listed option), else text; None without a gold
    shows_options: bool  # its question lists them
    may_be_index: bool  # the gold may be the number of one of them


class Inference:
    """What the records of one file have in common. `add` all, then `decide`, then ask for `question`s.

    name: of the file, for its notes. Without one every record is of the kind that it would have alone.
    """

    def __init__(self, name: str = "") -> None:
        self.notes: list[str] = []
        self.golds = GoldReader()
        self._name = name
        self._open: list[_Open] = []
        self._kinds: dict[str, AnswerKind] = {}  # by `where`
        self._with_options: list[tuple[str, Options]] = []
        # Fields that may be options in all records so far that have none, and whether golds are their items' texts.
        self._lookalikes: dict[str, bool] | None = None
        self._first_open: Draft | None = None
        self._no_numbers: list[str] = []

    def add(self, draft: Draft) -> None:
        """Add one record."""
        if draft.options is not None:
            self._with_options.append((draft.where, draft.options))
            self.golds.add(draft.where, draft.record, draft.options)
            return
        if draft.kind == "number" and draft.gold is not None and parse_number(draft.gold) is None:
            self._no_numbers.append(f"{draft.where}{draft.gold_key}: got {draft.gold!r}")
        if draft.kind not in (None, "choice"):
            return
        listed = _options_in_text(draft)
        empty = next(
            (key for key, value in draft.record.items() if value is None and plain_key(key) in OPTION_NAMES), None
        )
        if empty is not None and not listed and draft.gold is not None and _LETTER.fullmatch(draft.gold.strip()):
            expected = f"the gold {draft.gold!r} is a letter, so the options must be there"
            raise TaskError(f"{draft.where}{empty}", "nothing", expected)
        if draft.kind is None:
            kind = None if draft.gold is None else _kind_alone(draft.gold, listed)
            may_be_index = kind == "number" and _may_be_option(draft.gold or "", len(listed)) and bool(listed)
            field = f"{draft.where}{draft.gold_key}"
            self._open.append(_Open(draft.where, field, draft.gold, kind, bool(listed), may_be_index))
        if draft.gold is not None and self._name and self._lookalikes != {}:
            here = {} if listed else _lookalikes(draft)
            if self._lookalikes is None:
                self._lookalikes, self._first_open = here, draft
            known = self._lookalikes
            self._lookalikes = {key: known[key] and here[key] for key in known if key in here}

    def decide(self) -> None:
        """Decide kinds and golds, and note which records differ from the others.

        Raises TaskError for golds whose option no record shows, and for records that lack the options of the others.
        """
        self._decide_kinds()
        self._compare_options()
        if self._no_numbers and self._name:
            more = f" (and {len(self._no_numbers) - 1} more)" if len(self._no_numbers) > 1 else ""
            self.notes.append(
                f"{self._no_numbers[0]}{more}; it is not a number, although its kind is number: it is compared as text"
            )
        doubled = [where for where, one in self._with_options if len(set(one.texts.values())) < len(one.texts)]
        if doubled and self._name:
            told = f"{self._name}: records with two options of one text: {len(doubled)}"
            self.notes.append(f"{told} (the first: {doubled[0].strip(': ')})")
        for key, is_text in (self._lookalikes or {}).items():
            assert self._first_open is not None
            field = f"{self._first_open.where}{key}"
            expected = "every gold may be one of its items; if they are options call it choices, else say the kind"
            if not is_text:
                raise TaskError(field, self._first_open.record[key], expected)
            self.notes.append(f"{field}: {expected}: it is not shown to the agents")
        self.golds.decide()

    def question(self, draft: Draft) -> Question:
        """Return the question of a record that was added. Raises TaskError for a gold that does not fit its kind."""
        if draft.options is not None:
            return self._choice(draft, draft.options)
        kind = draft.kind or self._kinds[draft.where]
        question = Question(id=draft.id, question=draft.question, kind=kind, gold=draft.gold, record=draft.record)
        return with_letter(question, f"{draft.where}{draft.gold_key}")

    def _choice(self, draft: Draft, options: Options) -> Question:
        try:
            text = with_options(draft.question, options.texts)
        except PartlyShownError as error:
            expected = f"{error}; it must have all options of {options.source} in their order, or none"
            raise TaskError(f"{draft.where}{draft.question_key}", draft.question, expected) from None
        gold = self.golds.letter(draft.where, options)
        if gold is not None and list(options.texts.values()).count(options.texts[gold]) > 1:
            expected = "two options have the text of the right one; options must differ"
            raise TaskError(f"{draft.where}{options.source}", options.texts[gold], expected)
        given = draft.record.get("gold")
        if isinstance(given, str) and gold is not None and choice_letter(given, options.texts) == gold:
            gold = given
        secret = {*self.golds.keys(draft.record), *(options.keys if options.marked is not None else ())}
        record = {key: value for key, value in draft.record.items() if key not in secret}
        if options.marked is not None:
            record["choices"] = list(options.texts.values())
        if text.startswith(draft.question.rstrip()) and text != draft.question:
            record = {"stem": draft.question, **record}
        record["gold"] = gold
        return Question(id=draft.id, question=text, kind="choice", gold=gold, record=record, options=options)

    def _decide_kinds(self) -> None:
        golds = [one for one in self._open if one.kind is not None]
        counts: dict[AnswerKind, int] = dict.fromkeys(("number", "choice", "text"), 0)
        for one in golds:
            counts[one.kind or "text"] += 1
        common, most = max(counts.items(), key=lambda pair: pair[1])
        num_others = len(golds) - most
        outliers: list[_Open] = []
        shared: AnswerKind = "text"
        if golds and not num_others:
            shared = common
        elif common != "text" and most > 1 and num_others <= max(1, _MAX_OUTLIERS * len(golds)):
            shared = common
            outliers = [one for one in golds if one.kind != common]
        differing = {one.where for one in outliers}
        for one in self._open:
            self._kinds[one.where] = shared
            if not self._name:
                self._kinds[one.where] = one.kind or "text"
            elif one.where in differing:
                is_bare = one.kind == "choice" and not one.shows_options
                self._kinds[one.where] = "text" if is_bare else one.kind or "text"
        for one in golds if all(one.may_be_index for one in golds) else outliers:
            if one.may_be_index and self._name:
                expected = "the question lists options, and this may be the number of one; give its letter, or the kind"
                raise TaskError(one.field, one.gold, expected)
        if outliers and self._name:
            first, named = outliers[0], {"number": "numbers", "choice": "letters"}[common]
            more = f" (and {len(outliers) - 1} more)" if len(outliers) > 1 else ""
            self.notes.append(
                f"{first.field}: got {first.gold!r}{more}; the golds of the other {most} records are {named}: "
                f"it is graded as {self._kinds[first.where]}, the others as {common}"
            )
        elif golds and num_others and counts["text"] < len(golds) / 2 and self._name:
            first = next(one for one in golds if one.kind == "text") if counts["text"] else golds[0]
            self.notes.append(
                f"{self._name}: {counts['number']} golds are numbers, {counts['choice']} letters and {counts['text']} "
                f"texts (such as {first.gold!r}): all are graded as text; a kind in each record says otherwise"
            )

    def _compare_options(self) -> None:
        """Note records with options among others without, or the other way round."""
        without = [one for one in self._open if not one.shows_options]
        if not self._name or not without or not self._with_options:
            return
        where, options = self._with_options[0]
        most = max(len(one.texts) for _, one in self._with_options)
        if len(self._with_options) >= len(without):
            for one in without:
                if one.gold is None or _may_be_option(one.gold, most):
                    expected = f"{len(self._with_options)} other records have options there; add them, or say the kind"
                    raise TaskError(f"{one.where}{options.keys[0]}", "nothing", expected)
            first, kind = without[0], self._kinds[without[0].where]
            differ = f"without options and of kind {kind}: {len(without)} (the first: {first.where.strip(': ')})"
            self.notes.append(f"{self._name}: {differ}; the other {len(self._with_options)} are of kind choice")
            return
        few = f"with options and of kind choice: {len(self._with_options)} (the first: {where.strip(': ')}, "
        self.notes.append(f"{self._name}: {few}{options.source}); the other {len(self._open)} have none")


def _kind_alone(gold: str, listed: Mapping[str, str]) -> AnswerKind:
    """Return the kind of a record that names none: by its gold, and the options that its question lists."""
    gold = gold.strip()
    if is_plain_number(gold):
        return "number"
    is_listed = [" ".join(text.split()).casefold() for text in listed.values()].count(" ".join(gold.split()).casefold())
    return "choice" if _LETTER.fullmatch(gold) or is_listed == 1 else "text"


def _options_in_text(draft: Draft) -> dict[str, str]:
    """Return the options that a question lists in its text."""
    gold = draft.gold if draft.gold is not None and draft.gold.strip().isalpha() else None
    return options_of(Question(id=draft.id, question=draft.question, kind="text", gold=gold, record={}))


def _may_be_option(gold: str, num_options: int) -> bool:
    """Whether a gold may be the letter or number of an option."""
    gold = gold.strip(" ().")
    return (gold.isdecimal() and int(gold) <= num_options) or (len(gold) == 1 and gold.isalpha())


def _lookalikes(draft: Draft) -> dict[str, bool]:
    """Return the fields that hold something like options, one of which the gold may mean: whether by its text only."""
    found: dict[str, bool] = {}
    for key, value in [*draft.record.items(), *_columns(draft.record)]:
        if not isinstance(value, list | tuple | dict) or key in _NO_OPTIONS or key.startswith("test"):
            continue
        try:
            options = find_options({"choices": value}, draft.where)
        except TaskError:
            continue
        meant = None if options is None or draft.gold is None else means_option(draft.gold, options)
        if meant is not None:
            found[key] = meant == "text"
    return found


def _columns(record: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Yield the fields that are named alike but for a last letter or number, from a, 0 or 1: (first key, texts)."""
    groups: dict[str, dict[str, str]] = {}
    for key, value in record.items():
        match = _COLUMN.fullmatch(key) if isinstance(key, str) and isinstance(value, str) else None
        if match is not None:
            groups.setdefault(match[1], {})[(match[2] or match[3]).lower()] = key
    for group in groups.values():
        labels = sorted(group)
        if len(group) > 1 and labels[0] in ("a", "0", "1"):
            yield group[labels[0]], [record[group[label]] for label in labels]


def with_letter(question: Question, field: str) -> Question:
    """Return the question. Raises TaskError if the gold of a choice is not an option: no answer would be right."""
    if question.kind == "choice" and question.gold is not None:
        options = options_of(question)
        if choice_letter(question.gold, options) is None:
            letters = f"one of {', '.join(options)}" if options else "such as B"
            raise TaskError(field, question.gold, f"for kind choice it must be a letter, {letters}")
    return question
