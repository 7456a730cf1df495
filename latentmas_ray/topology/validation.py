"""Models that are validated where they are made; what is wrong is one line: place, value, and what would be right."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from latentmas_ray.errors import TopologyError

Path = tuple[str | int, ...]

_FIRST_TOLD = {"extra_forbidden": 0, "missing": 1}  # a missing key is often a misspelt one


class RuleError(ValueError):
    """Raised by a validator: the value that breaks a rule, what would be right, and where it is below the field."""

    def __init__(self, value: object, expected: str, *path: str | int) -> None:
        super().__init__(expected)
        self.value = value
        self.expected = expected
        self.path = path


class ValidatedModel(BaseModel):
    """A frozen model. Making one raises TopologyError for the first thing that is wrong, never pydantic's own error.

    A subclass says in `EXPECTED` what each field must be, and in `where` how a path into it is written.
    """

    # Built when the first one is made: commands such as `--help` make none.
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
        """`path` in a model that was to be made of `fields`, as it stands in messages."""
        raise NotImplementedError

    def replace(self, **changes: Any) -> Self:
        """A copy with other values in some fields. Raises TopologyError if it breaks a rule."""
        given = {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}
        return type(self)(**(given | changes))

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """As pydantic's own, but validated."""
        return self.replace(**update) if update else super().model_copy(deep=deep)

    @classmethod
    def _explain(cls, error: ValidationError) -> tuple[Path, str, str]:
        """Where it is, what stands there, and what would be right."""
        first = min(error.errors(include_url=False), key=_precedence)
        path = first["loc"]
        if first["type"] == "extra_forbidden":
            key = str(path[-1])
            known = tuple(cls.model_fields)
            return path, key, f"unknown key; {did_you_mean(key, known)}the keys here are {', '.join(known)}"
        if first["type"] == "missing":
            return path, "nothing", "it is missing"
        fault = first.get("ctx", {}).get("error")
        if isinstance(fault, RuleError):
            return path + fault.path, shown(fault.value), fault.expected
        expected = cls.EXPECTED[str(path[0])] if len(path) == 1 else "it must be text"
        return path, shown(first["input"]), expected


def _precedence(error: ErrorDetails) -> int:
    return _FIRST_TOLD.get(error["type"], len(_FIRST_TOLD))


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """`did you mean …? ` where one of `known` is like `word`, else nothing."""
    near = get_close_matches(word, known, n=1)
    return f"did you mean {near[0]}? " if near else ""


def place(prefix: str, path: Path) -> str:
    """A path as it stands in messages: `agents.planner` and ("reads", 1) make `agents.planner.reads[1]`."""
    for part in path:
        prefix += f"[{part}]" if isinstance(part, int) else f".{part}" if prefix else part
    return prefix


def shown(value: object) -> str:
    """A value in one line, the way that YAML writes it."""
    try:
        return "nothing" if value is None else _flow(value)
    except Exception:  # noqa: BLE001 - a value of any class can be given, and its `__repr__` may raise anything
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
