"""What would be right instead of a value that pydantic has refused, in one form for all fields of users' input."""

import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Final, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

_ABOUT_NUMBERS: Final = ("int_", "float_", "greater_than", "less_than", "finite_number")
_SUBJECT: Final = re.compile(r"^(?:Input|List|Tuple|String|Dictionary|Value) should ")
_LIMITS: Final = ("ge", "gt", "le", "lt")
_FORMS: Final = {
    "missing": "it is missing",
    "bool_parsing": "it must be true or false",
    "bool_type": "it must be true or false",
    "string_type": "it must be text",
}


def expected_form(error: ErrorDetails, field: FieldInfo | None = None) -> str:
    """Return `it must be …`, or `it is missing`, for an error of pydantic. For a number it names all limits of the
    `field`, of which the error has at most one, and without the field those that the error has."""
    kind = error["type"]
    if kind.startswith(_ABOUT_NUMBERS):
        return f"it must be {_number_form(error, field)}"
    said = error["msg"].removeprefix("Value error, ").replace(" after validation", "")
    return _FORMS.get(kind) or _SUBJECT.sub("it must ", said)


def field_at(model: type[BaseModel], place: Sequence[str | int]) -> FieldInfo | None:
    """Return the field of a model, or of a model in it, at the place that an error names; None if there is none."""
    inner: type[BaseModel] | None = model
    field = None
    for name in (part for part in place if isinstance(part, str)):
        field = None if inner is None else inner.model_fields.get(name)
        if field is None:
            return None
        inner = next((one for one in _parts(field.annotation) if _is_model(one)), None)
    return field


def _number_form(error: ErrorDetails, field: FieldInfo | None) -> str:
    """Return `a number above 0 and at most 1`."""
    kind, limits = error["type"], dict(error.get("ctx", {}))
    is_whole = kind.startswith("int_")
    if field is not None:
        limits |= _limits(field)
        is_whole = is_whole or (int in _parts(field.annotation) and float not in _parts(field.annotation))
    what = "a whole number" if is_whole else "a number"
    least, most = limits.get("ge"), limits.get("le")
    if is_whole and (below := limits.get("lt")) is not None:
        most = below - 1
    if least is not None and most is not None:
        return f"{what} from {_text(least)} to {_text(most)}"
    bounds = (
        ("of at least", least),
        ("above", limits.get("gt")),
        ("of at most" if limits.get("gt") is None else "at most", most),
        ("below", None if is_whole else limits.get("lt")),
    )
    return " ".join(
        (what, " and ".join(f"{words} {_text(limit)}" for words, limit in bounds if limit is not None))
    ).strip()


def _limits(field: FieldInfo) -> dict[str, Any]:
    """Return the limits of a field by the names that pydantic gives them."""
    found = [one for part in (field, *_parts(field.annotation)) if isinstance(part, FieldInfo) for one in part.metadata]
    return {name: getattr(one, name) for one in found for name in _LIMITS if hasattr(one, name)}


def _parts(annotation: Any) -> Iterator[Any]:
    """Yield the types in an annotation, and what `Annotated` says of them."""
    yield annotation
    for part in annotation.__metadata__ if get_origin(annotation) is Annotated else ():
        yield part
    for part in get_args(annotation):
        yield from _parts(part)


def _is_model(part: Any) -> bool:
    return isinstance(part, type) and issubclass(part, BaseModel)


def _text(limit: float) -> str:
    return str(int(limit)) if limit == int(limit) else f"{limit:g}"  # not 1e+06
