"""Handles of chunks, signed: a reader follows only those that a process of its run has made.

A handle says where bytes lie. It travels apart from them, and a process that could alter it would have a reader map or
fetch other bytes.
"""

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

import msgpack

from latentmas_ray.authentication import Authenticator, is_equal
from latentmas_ray.errors import WireError
from latentmas_ray.memory.wire import prefix_of


@dataclass(frozen=True, kw_only=True)
class SignedHandle:
    """The base of handles, which have plain values. A field `header` is a chunk's, which has a tag itself."""

    tag: bytes = b""


H = TypeVar("H", bound=SignedHandle)


def sign_handle(handle: H, authenticator: Authenticator) -> H:
    """Return the handle with the tag of all its other fields."""
    return replace(handle, tag=authenticator.mac(type(handle).__name__, _packed(handle)))


def check_handle(handle: object, kind: type[SignedHandle], authenticator: Authenticator) -> None:
    """Raise WireError unless a process of the run has signed exactly this handle."""
    try:
        if isinstance(handle, kind) and is_equal(handle.tag, authenticator.mac(kind.__name__, _packed(handle))):
            return
    except (TypeError, ValueError, OverflowError, AttributeError) as error:  # a field is of another type
        raise WireError(f"no handle of a segment: {error}") from error
    raise WireError("the handle of the segment is damaged, or another run's: its tag does not match")


def _packed(handle: SignedHandle) -> bytes:
    values = {field.name: getattr(handle, field.name) for field in fields(handle) if field.name != "tag"}
    if "header" in values:
        values["header"] = prefix_of(values["header"])
    packed: bytes = msgpack.packb({name: _plain(value) for name, value in values.items()}, strict_types=True)
    return packed


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return [_plain(getattr(value, field.name)) for field in fields(value)]
    return list(value) if isinstance(value, tuple) else value
