"""Decides which option each gold means: its letter, its text, or its number from 0 or from 1.

One record seldom shows how its benchmark counts, so `GoldReader` looks at all records before it reads one. A file whose
golds can be read in two ways that differ is refused.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from latentmas_ray.errors import TaskError
from latentmas_ray.tasks.choices.fields import INDEX_NAMES, TEXT_NAMES, gold_keys
from latentmas_ray.tasks.choices.options import Options

Rule = Literal["label", "letter", "text", "from 0", "from 1", "either"]

_WORDS: dict[Rule, str] = {
    "label": "as an option's label",
    "letter": "as a letter",
    "text": "as the text of an option",
    "from 0": "numbered from 0",
    "from 1": "numbered from 1",
    "either": "as a letter or text",
}
_LETTER = re.compile(r"\s*(?:option|choice|answer)?\s*[(\[]?([A-Z])[)\].:]*\s*", re.IGNORECASE)
_LETTER_AND_TEXT = re.compile(
    r"\s*(?:option|choice|answer)?\s*[(\[]?([A-Z]|\d{1,2})(?:[)\].:、]+|\s+[-–])\s*(\S.*)", re.IGNORECASE | re.DOTALL
)
_NUMBER = re.compile(r"\s*[(\[]?(\d{1,3})(?:\.0+)?[)\].]?\s*")


class _Gold(NamedTuple):
    """The gold of one record in one of its fields."""

    where: str
    key: str
    value: Any
    is_number: bool
    readings: Mapping[Rule, int]  # the place of the option that it means
    options: Options


@dataclass(kw_only=True)
class _GoldPlan:
    """One way to read a field: a rule for its numbers and one for its words, and what follows."""

    rules: tuple[Rule | None, Rule | None]  # of words, of numbers
    places: dict[str, int] = field(default_factory=dict)  # by record


class GoldReader:
    """Collects the golds of all records that have options, and then reads each."""

    def __init__(self) -> None:
        self._golds: dict[str, list[_Gold]] = {}  # by the plain name of the field
        self._rank: dict[str, int] = {}
        self._plans: dict[str, _GoldPlan] = {}
        self._places: dict[str, int] = {}
        self._marked: dict[str, None] = {}
        self.source = ""  # the fields that hold golds and how they are read, as told to the user

    def add(self, where: str, record: Mapping[str, Any], options: Options) -> None:
        """Add a record. `where` is the prefix of fields in its errors, and its name in `letter`."""
        if options.marked is not None:
            self._places[where] = options.marked
            self._marked[f"{options.source} (the one that is marked as right)"] = None
        for rank, (name, key) in enumerate(gold_keys(record)):
            value = _single(record[key], options)
            if value is None or key in options.keys or (value == "" and name != "gold"):
                continue
            number = _number(value)
            gold = _Gold(where, key, value, number is not None, _readings(name, value, options), options)
            self._golds.setdefault(name, []).append(gold)
            self._rank[name] = rank

    def decide(self) -> None:
        """Decide how the golds are read. Raises TaskError, its field `FILE:LINE: KEY`, if a gold is no option, or may
        mean several and no record shows which."""
        plans: dict[str, list[_GoldPlan]] = {}
        unread: list[str] = []
        for name in sorted(self._golds, key=lambda name: self._rank[name]):
            golds = self._golds[name]
            found = _plans_of(golds)
            if found:
                plans[name] = found
            elif name != "gold" and sum(not gold.readings for gold in golds) > len(golds) / 2:
                unread.append(name)  # it holds something else, such as an explanation
            else:
                _refuse_unread(golds)
        for name, found in plans.items():
            self._plans[name] = self._narrowed(name, found, plans)
        for name in unread:
            for gold in self._golds[name]:
                if (
                    not any(gold.where in plan.places for plan in self._plans.values())
                    and gold.where not in self._places
                ):
                    _refuse_unread([gold])
        for plan in self._plans.values():
            for where, place in plan.places.items():
                self._places.setdefault(where, place)
        self.source = ", ".join([*self._marked, *map(self._told, self._plans)])

    def letter(self, where: str, options: Options) -> str | None:
        """Return the letter of a record's gold; None if it has none."""
        place = self._places.get(where)
        return None if place is None else options.letters[place]

    def keys(self, record: Mapping[str, Any]) -> Iterator[str]:
        """Yield the fields of a record that hold its gold."""
        return (key for name, key in gold_keys(record) if name in self._plans)

    def _told(self, name: str) -> str:
        plan = self._plans[name]
        used = [_WORDS[rule] for rule in plan.rules if rule is not None]
        return f"{self._golds[name][0].key} ({', '.join(used)})"

    def _narrowed(self, name: str, found: list[_GoldPlan], plans: Mapping[str, list[_GoldPlan]]) -> _GoldPlan:
        """Return the only plan that the other fields agree with."""
        marks = [_GoldPlan(rules=(None, None), places=self._places)]  # only the marked options are known so far
        fitting = found
        for other, others in [*((key, value) for key, value in plans.items() if key != name), ("", marks)]:
            agreeing = [plan for plan in fitting if any(_agree(plan, one) for one in others)]
            if not agreeing:
                self._refuse_contradiction(name, other, fitting[0], others[0])
            fitting = agreeing
        if len(fitting) > 1:
            _refuse_undecided(self._golds[name], *fitting[:2])
        return fitting[0]

    def _refuse_contradiction(self, name: str, other: str, plan: _GoldPlan, against: _GoldPlan) -> None:
        """Raise TaskError for two fields of a record that mean different options."""
        for gold in self._golds[name]:
            place = against.places.get(gold.where)
            if place is not None and plan.places.get(gold.where, place) != place:
                others = [one for one in self._golds.get(other, ()) if one.where == gold.where]
                told = f"{others[0].key} {others[0].value!r}" if others else gold.options.source
                letters = gold.options.letters
                expected = f"it is option {letters[plan.places[gold.where]]}, but {told} is {letters[place]}"
                raise TaskError(f"{gold.where}{gold.key}", gold.value, f"{expected}; give the right one as gold")


def means_option(gold: str, options: Options) -> Literal["index", "text"] | None:
    """Return how a gold may mean one of the options: by letter or number, by its text only, or not at all."""
    readings = _readings("gold", gold, options)
    return None if not readings else "text" if set(readings) == {"text"} else "index"


def _single(value: Any, options: Options) -> Any:
    """Return what a list says: its only item, or the option at the place of its only 1 among zeros; else the value."""
    if not isinstance(value, list | tuple):
        return value
    if len(value) == 1:
        return value[0]
    is_hot = len(value) == len(options.texts) and sorted(map(str, value)) == ["0"] * (len(value) - 1) + ["1"]
    return "{}. {}".format(*list(options.texts.items())[list(map(str, value)).index("1")]) if is_hot else value


def _number(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    match = _NUMBER.fullmatch(str(value)) if isinstance(value, str | int | float) else None
    return int(match[1]) if match else None


def _readings(name: str, value: Any, options: Options) -> dict[Rule, int]:
    """Return what a gold can mean, by rule."""
    if not isinstance(value, str | int | float):
        return {}
    readings: dict[Rule, int] = {}
    text, number = unicodedata.normalize("NFKC", str(value)).strip(), _number(value)
    if name.endswith(TEXT_NAMES):
        return {"text": place} if (place := _place_of_text(text, options)) is not None else {}
    if number is not None:
        return _readings_of_number(name, number, text, options)
    labels = [label.upper() for label in options.labels] or list(options.letters)
    match = _LETTER.fullmatch(text)
    if (bare := text.strip("()[].: ").upper()) in labels:
        readings["letter"] = labels.index(bare)
    elif match is not None and match[1].upper() in labels:
        readings["letter"] = labels.index(match[1].upper())
    elif match is not None and match[1].upper() in options.letters:
        readings["letter"] = options.letters.index(match[1].upper())
    if (place := _place_of_text(text, options)) is not None:
        readings["text"] = place
    both = _LETTER_AND_TEXT.fullmatch(text)
    if both is not None and not readings:
        label, place = both[1].upper(), _place_of_text(both[2], options, label=both[1].upper())
        known = labels if label in labels else options.letters
        if place is not None and label in known and known.index(label) == place:
            readings["letter"] = place
    return readings


def _readings_of_number(name: str, number: int, text: str, options: Options) -> dict[Rule, int]:
    readings: dict[Rule, int] = {}
    num_options = len(options.texts)
    if not name.endswith(INDEX_NAMES) and (place := _place_of_text(text, options)) is not None:
        readings["text"] = place
    numbered = [label for label in options.labels if label.isdecimal()]
    if len(numbered) == num_options:
        labels = [int(label) for label in numbered]
        return readings | ({"label": labels.index(number)} if number in labels else {})
    if number < num_options:
        readings["from 0"] = number
    if not options.is_from_0 and 1 <= number <= num_options:
        readings["from 1"] = number - 1
    return readings


def _place_of_text(text: str, options: Options, label: str | None = None) -> int | None:
    """Return the place of the only option with this text; of several, that with the label."""
    for fold in (_plain, _folded):
        places = [place for place, option in enumerate(options.texts.values()) if fold(option) == fold(text)]
        if len(places) > 1 and label in options.letters:
            places = [place for place in places if options.letters[place] == label]
        if places:
            return places[0] if len(places) == 1 else None
    return None


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).split())


def _folded(text: str) -> str:
    return _plain(text).casefold().rstrip(" .")


def _plans_of(golds: list[_Gold]) -> list[_GoldPlan]:
    """Return the ways to read all golds of a field that differ in what they mean."""
    words = [gold for gold in golds if not gold.is_number]
    numbers = [gold for gold in golds if gold.is_number]
    plans: list[_GoldPlan] = []
    for word_rule in _valid(words, ("letter", "text")) or ([None] if not words else _mixed(words)):
        for number_rule in _valid(numbers, ("label", "text", "from 0", "from 1")) or ([None] if not numbers else []):
            plan = _GoldPlan(rules=(word_rule, number_rule))
            for gold in golds:
                rule = number_rule if gold.is_number else word_rule
                assert rule is not None  # there are golds of this sort
                plan.places[gold.where] = _means(gold, rule)
            if all(plan.places != one.places for one in plans):
                plans.append(plan)
    return plans


def _valid(golds: list[_Gold], rules: tuple[Rule, ...]) -> list[Rule | None]:
    return [rule for rule in rules if golds and all(rule in gold.readings for gold in golds)]


def _mixed(words: list[_Gold]) -> list[Rule | None]:
    """Letters in some records and texts in others: each must mean one option."""
    return ["either"] if all(len(set(gold.readings.values())) == 1 for gold in words) else []


def _means(gold: _Gold, rule: Rule) -> int:
    return next(iter(gold.readings.values())) if rule == "either" else gold.readings[rule]


def _agree(one: _GoldPlan, other: _GoldPlan) -> bool:
    return all(other.places.get(where, place) == place for where, place in one.places.items())


def _refuse_unread(golds: list[_Gold]) -> None:
    """Raise TaskError for the first gold that does not fit how most of them can be read."""
    rules: tuple[Rule, ...] = ("label", "letter", "text", "from 0", "from 1")
    numbers = [gold for gold in golds if gold.is_number]
    sort = numbers if numbers and not _valid(numbers, rules) else [gold for gold in golds if not gold.is_number]
    best = max(rules, key=lambda rule: sum(rule in gold.readings for gold in sort))
    bad = next((gold for gold in sort if not gold.readings), None)
    bad = bad or next((gold for gold in sort if len(set(gold.readings.values())) > 1 and not gold.is_number), None)
    bad = bad or next(gold for gold in sort if best not in gold.readings)
    letters = bad.options.letters
    expected = f"it must be a letter, one of {', '.join(letters)}, or the text or number of an option"
    if bad.is_number and bad.readings and any(best in gold.readings for gold in sort):
        expected = f"other golds of this field are options {_WORDS[best]}, and this one is not; {expected}"
    elif not bad.is_number and bad.readings:
        means = " or ".join(f"{_WORDS[rule]} {letters[place]}" for rule, place in bad.readings.items())
        expected = f"it is {means}; write it as {_example(bad)}"
    raise TaskError(f"{bad.where}{bad.key}", bad.value, expected)


def _refuse_undecided(golds: list[_Gold], one: _GoldPlan, other: _GoldPlan) -> None:
    """Raise TaskError for the first gold that has two meanings."""
    gold = next(gold for gold in golds if one.places[gold.where] != other.places[gold.where])
    which = int(gold.is_number)
    means = [
        f"{_WORDS[rule]} it is {gold.options.letters[plan.places[gold.where]]}"
        for plan in (one, other)
        if (rule := plan.rules[which]) is not None
    ]
    expected = f"{' and '.join(means)}, and no record shows which is meant; write it as {_example(gold)}"
    raise TaskError(f"{gold.where}{gold.key}", gold.value, expected)


def _example(gold: _Gold) -> str:
    letter, text = next(iter(gold.options.texts.items()))
    return f"letter and text, such as {f'{letter}. {text}'[:60]!r}"
