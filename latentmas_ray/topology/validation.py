"""Validation of agents and topologies: field types, and pydantic's errors as one-line TopologyErrors.

Field types allow what YAML can write and read back: `Text`, `Template`, and `plain_mapping` for nested data.
"""

import math
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from latentmas_ray.errors import NO_PIPELINE, PIPELINE_FIELDS, TopologyError
from latentmas_ray.topology.templates import find_problem

MAX_NESTING = 17  # levels, including the outermost mapping: less than a topology file allows
MAX_INTEGER = 10**18 - 1

Path = tuple[str | int, ...]

_PLAIN = "it must be text, a number, true, false, null, a list or a mapping"
_REPORTED_FIRST = {"extra_forbidden": 0, "missing": 1}  # a missing key is often a misspelt one


class RuleError(ValueError):
    """Raised by a validator: the invalid value, what would be right, and the path to it below the field."""

    def __init__(self, value: object, expected: str, *path: str | int) -> None:
        super().__init__(expected)
        self.value = value
        self.expected = expected
        self.path = path


class ValidatedModel(BaseModel):
    """A frozen pydantic model that raises TopologyError for its first mistake, never pydantic's ValidationError.

    A subclass defines `EXPECTED`, what each field must be, and `where`, how messages write a path into it.
    """

    # defer_build: the schema is built for the first instance, and commands such as `--help` make none.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)

    EXPECTED: ClassVar[Mapping[str, str]]

    def __init__(self, /, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            path, value, expected = self._explain(error)
            raise TopologyError(self.where(path, fields), value, expected, path=path) from None

    @classmethod
    def where(cls, path: Path, fields: Mapping[str, Any]) -> str:
        """Return how messages write `path`, for a model made from `fields`."""
        raise NotImplementedError

    def replace(self, **changes: Any) -> Self:
        """Return a validated copy with other values in some fields. Raises TopologyError."""
        given = {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}
        return type(self)(**(given | changes))

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Override pydantic's `model_copy`, which does not validate."""
        return self.replace(**update) if update else super().model_copy(deep=deep)

    @classmethod
    def _explain(cls, error: ValidationError) -> tuple[Path, str, str]:
        """Return the path, the value found there, and what would be right."""
        first = min(error.errors(include_url=False), key=_precedence)
        path = first["loc"]
        if first["type"] == "extra_forbidden":
            key = str(path[-1])
            if key in PIPELINE_FIELDS:
                return path, key, NO_PIPELINE
            known = tuple(cls.model_fields)
            return path, key, f"unknown key; {did_you_mean(key, known)}the valid keys are {', '.join(known)}"
        if first["type"] == "missing":
            return path, "nothing", "it is missing"
        fault = first.get("ctx", {}).get("error")
        if isinstance(fault, RuleError):
            return path + fault.path, shown(fault.value), fault.expected
        expected = cls.EXPECTED[str(path[0])] if len(path) == 1 else "it must be text"
        return path, shown(first["input"]), expected


def _check_text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RuleError(ascii(text), "it has half of a surrogate pair, which is not a character") from None
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


def plain_mapping(value: object, path: Path = (), nesting: int = 1) -> dict[str, Any]:
    """Return a copy of a mapping of plain data, with tuples as lists. Raises RuleError, its path below `path`."""
    if not isinstance(value, Mapping):
        raise RuleError(value, "it must be a mapping (key: value lines)", *path)
    copy = {}
    for key, item in value.items():
        if not isinstance(key, str):
            raise RuleError(key, "a key must be text", *path)
        _check_text_at(key, path)
        copy[str.__str__(key)] = _plain(item, (*path, key), nesting + 1)
    return copy


def _plain(value: object, path: Path, nesting: int) -> Any:
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
            raise RuleError(value, "it must be a finite number", *path)
        return float(value)
    if isinstance(value, list | tuple):
        return [_plain(item, (*path, index), nesting + 1) for index, item in enumerate(value)]
    if isinstance(value, Mapping):
        return plain_mapping(value, path, nesting)
    raise RuleError(value, _PLAIN, *path)


def _check_text_at(text: str, path: Path) -> str:
    try:
        return _check_text(text)
    except RuleError as error:
        raise RuleError(error.value, error.expected, *path) from None


def _precedence(error: ErrorDetails) -> int:
    return _REPORTED_FIRST.get(error["type"], len(_REPORTED_FIRST))


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """Return `did you mean …? ` if `word` is close to one of `known`, else an empty string."""
    near = get_close_matches(word, known, n=1)
    return f"did you mean {near[0]}? " if near else ""


def join_path(prefix: str, path: Path) -> str:
    """Return a path as messages write it: `agents.planner` and ("reads", 1) give `agents.planner.reads[1]`."""
    for part in path:
        prefix += f"[{part}]" if isinstance(part, int) else f".{part}" if prefix else part
    return prefix


def shown(value: object) -> str:
    """Return a value in one line, as YAML writes it."""
    try:
        return "nothing" if value is None else _flow(value)
    except Exception:  # noqa: BLE001 - the value may be of any class, and its `__repr__` may raise anything
        return f"<{type(value).__name__}>"


def _flow(value: object) -> str:
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_flow(key)}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return repr(value)
