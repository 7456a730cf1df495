"""Puts the options of a question into its text, unless they are there already."""

import re
from collections.abc import Mapping

_LETTER = re.compile(r"(?<![a-z0-9_])[(\[（]?([a-z])\s?[)\].:、．：）]+\s*")
_LINE_START = re.compile(r"\s*(?:[-*•–]\s+|[(\[]?(?P<label>[A-Za-z]|\d{1,2})\s?[)\].:、．：）]+\s*)?")


class PartlyShownError(ValueError):
    """A question's text holds some of the options, or all under other letters. The message says which."""


def with_options(text: str, options: Mapping[str, str]) -> str:
    """Return the question with its options (by capital letter), each exactly once, as `A. text` on a line of its own.

    A text that has them with their letters is returned unchanged; options in it with numbers, bullets or nothing before
    them get their letters there. Raises PartlyShownError if it has only some of them, or gives them other letters.
    """
    lines = "\n".join([text.rstrip(), *(f"{letter}. {option}" for letter, option in options.items())])
    flat = _folded(text)
    if not any(_folded(option) in flat for option in options.values()):
        return lines
    found = _lettered(flat, options)
    if _has_run(found, list(options)):
        return text
    for shown in (_marked_lines(text, options), _marked_inline(text, options)):
        if shown is not None:
            return shown
    if found:
        missing = ", ".join(letter for letter in options if letter not in found) or "in their order"
        has = ", ".join(sorted(set(found)))
        raise PartlyShownError(f"the question has the options {has} in its text, but not {missing}")
    return lines


def _folded(text: str) -> str:
    """Return the text without case, extra white space and its full stop."""
    return " ".join(text.split()).casefold().rstrip(".")


def _lettered(flat: str, options: Mapping[str, str]) -> list[str]:
    """Return the letters in a folded text that their options follow, one after another."""
    found: list[str] = []
    for match in _LETTER.finditer(flat):
        letter = match[1].upper()
        option = _folded(options.get(letter, ""))
        after = flat[match.end() + len(option) : match.end() + len(option) + 1]
        if option and flat.startswith(option, match.end()) and not after.isalnum():
            found.append(letter)
    return found


def _has_run(found: list[str], letters: list[str]) -> bool:
    """Whether all letters occur in their order."""
    rest = iter(found)
    return all(letter in rest for letter in letters)


def _spaced(text: str) -> str:
    """Return a pattern for the text with any white space between its words."""
    return r"\s+".join(map(re.escape, text.split()))


def _marked_lines(text: str, options: Mapping[str, str]) -> str | None:
    """Return the text with letters before the lines that are options; None if not all options are lines, in order."""
    lines = text.split("\n")
    wanted = {letter: " ".join(option.split()) for letter, option in options.items()}
    places: dict[str, int] = {}
    labels: dict[str, str | None] = {}
    for number, line in enumerate(lines):
        marker = _LINE_START.match(line)
        assert marker is not None  # the pattern matches the empty text
        for body, label in ((line, None), (line[marker.end() :], marker["label"])):
            body = " ".join(body.split())
            letter = next((one for one, option in wanted.items() if option == body and one not in places), None)
            if letter is not None:
                places[letter], labels[letter] = number, label
                break
    if len(places) < len(options):
        return None
    others = [f"{label}. {wanted[letter]}" for letter, label in labels.items() if label and label.isalpha()]
    if others or list(places) != list(options):
        raise PartlyShownError(f"the question lists the options in another way ({(others or list(places))[0]})")
    for letter, number in places.items():
        lines[number] = f"{letter}. {wanted[letter]}"
    return "\n".join(lines)


def _marked_inline(text: str, options: Mapping[str, str]) -> str | None:
    """Return the text with letters for the numbers before its options, as in `(1) iron (2) wood`; None without such."""
    for first in (0, 1):
        position, parts = 0, []
        for number, (letter, option) in enumerate(options.items(), start=first):
            match = re.compile(rf"(?<!\w)[(\[]?{number}[)\].:]\s*({_spaced(option)})(?!\w)").search(text, position)
            if match is None:
                break
            parts += [text[position : match.start()], f"({letter}) {match[1]}"]
            position = match.end()
        else:
            return "".join([*parts, text[position:]])
    return None
