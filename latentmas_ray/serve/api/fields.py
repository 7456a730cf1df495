"""What the models of requests are made of: strict fields, fields that OpenAI's API has and a team does not, and the
message of the first mistake."""

import difflib
import json
from collections.abc import Sequence
from typing import Any, Final, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from latentmas_ray.expected import expected_form, field_at
from latentmas_ray.serve.api.errors import ApiError, bad_field

UNSUPPORTED: Final = "unsupported_parameter"
_UNKNOWN: Final = "unknown_parameter"
_TAG: Final = "*"  # with which the tags of unions begin: they are no part of a field's name
_MAX_PARAM_CHARS: Final = 200

_Request = TypeVar("_Request", bound="ApiModel")


class ApiModel(BaseModel):
    """A strict part of a request: no unknown field, no number as text, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def off(*values: object, instead: str) -> AfterValidator:
    """Mark a field that is accepted only where it asks for nothing: as null, or as one of `values`. `instead` says why,
    or what to use."""

    def check(value: object) -> None:
        if value is None or any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in values):
            return
        raise PydanticCustomError(UNSUPPORTED, "it is not supported: {instead}; leave it out", {"instead": instead})

    return AfterValidator(check)


def tag(name: str) -> str:
    """Return the tag of one form of a field, which messages do not show."""
    return _TAG + name


def refuse(expected: str) -> PydanticCustomError:
    """Return the error of a value in a validator; `expected` says what would be right."""
    return PydanticCustomError("invalid_value", "{expected}", {"expected": expected})


def parse_request(model: type[_Request], body: bytes) -> _Request:
    """Return the request that a body holds. Raises ApiError (400) that names the field, the value, and what would be
    right."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise _api_error(error.errors(include_url=False), model) from None


def _api_error(errors: Sequence[ErrorDetails], model: type[ApiModel]) -> ApiError:
    first = errors[0]
    kind, loc = first["type"], tuple(part for part in first["loc"] if not str(part).startswith(_TAG))
    if kind == "json_invalid":
        reason = str(first.get("ctx", {}).get("error", "it cannot be read"))
        return ApiError(400, f"body: it must be JSON in UTF-8: {reason}", None, "invalid_json")
    if not loc:
        return ApiError(400, "body: it must be a JSON object with the fields of a request", None, "invalid_json")
    param, more = _name(loc), _others(len(errors) - 1)
    if kind == "missing":
        return ApiError(400, f"{param}: it must be given{more}", param, "missing_parameter")
    if kind == "extra_forbidden":
        return bad_field(param, _shown(first["input"]), _known(loc, model) + more, _UNKNOWN)
    expected = expected_form(first, field_at(model, loc)) + more
    return bad_field(param, _shown(first["input"]), expected, kind if kind == UNSUPPORTED else "invalid_value")


def _shown(value: Any) -> str:
    """Return a value as the client wrote it, not as Python does."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _others(count: int) -> str:
    return "" if not count else " (and one more mistake)" if count == 1 else f" (and {count} more mistakes)"


def _name(loc: Sequence[str | int]) -> str:
    """Return `messages[0].content`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).lstrip(".")
    text = "".join(char if char.isprintable() else "?" for char in text)
    return text if len(text) <= _MAX_PARAM_CHARS else text[:_MAX_PARAM_CHARS] + "…"


def _known(loc: Sequence[str | int], model: type[ApiModel]) -> str:
    names = list(model.model_fields) if len(loc) == 1 else []
    close = difflib.get_close_matches(str(loc[-1])[:_MAX_PARAM_CHARS], names, n=1, cutoff=0.75)
    return f"it is not a field here{f'; did you mean {close[0]}?' if close else ''}"
