"""Text and plain data as a topology may hold them: what YAML can write and read back."""

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator

from latentmas_ray.topology.templates import find_problem
from latentmas_ray.topology.validation import RuleError

MAX_NESTING = 17  # levels, the outermost mapping counted: no file that holds it is nested too deeply
MAX_INTEGER = 10**18 - 1

_PLAIN = "it must be text, a number, true, false, null, a list or a mapping"


def _check_text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RuleError(ascii(text), "it holds half of a surrogate pair, which is not a character") from None
    return text


def _check_template(text: str) -> str:
    problem = find_problem(text)
    if problem is not None:
        line, reason = problem
        lines = text.splitlines()[line - 1 : line]
        raise RuleError(lines[0].strip() if lines else text, reason)
    return text


Text = Annotated[str, AfterValidator(_check_text)]
Template = Annotated[Text, AfterValidator(_check_template)]


def plain_mapping(value: object, path: tuple[str | int, ...] = (), nesting: int = 1) -> dict[str, Any]:
    """A copy of a mapping of plain data, in which tuples are lists. Raises RuleError, its path below `path`."""
    if not isinstance(value, Mapping):
        raise RuleError(value, "it must be a mapping (key: value lines)", *path)
    made = {}
    for key, item in value.items():
        if not isinstance(key, str):
            raise RuleError(key, "a key must be text", *path)
        _check_text_at(key, path)
        made[str.__str__(key)] = _plain(item, (*path, key), nesting + 1)
    return made


def _plain(value: object, path: tuple[str | int, ...], nesting: int) -> Any:
    if nesting > MAX_NESTING:
        raise RuleError(value, f"it is nested more than {MAX_NESTING} levels deep", *path)
    if value is None or isinstance(value, bool):
        return value
    # Values of subclasses, such as enums, become plain ones.
    if isinstance(value, str):
        return _check_text_at(str.__str__(value), path)
    if isinstance(value, int):
        if abs(value) > MAX_INTEGER:
            raise RuleError(value, f"it must be a whole number from {-MAX_INTEGER} to {MAX_INTEGER}", *path)
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise RuleError(value, "it must be a plain decimal number", *path)
        return float(value)
    if isinstance(value, list | tuple):
        return [_plain(item, (*path, index), nesting + 1) for index, item in enumerate(value)]
    if isinstance(value, Mapping):
        return plain_mapping(value, path, nesting)
    raise RuleError(value, _PLAIN, *path)


def _check_text_at(text: str, path: tuple[str | int, ...]) -> str:
    try:
        return _check_text(text)
    except RuleError as fault:
        raise RuleError(fault.value, fault.expected, *path) from None
