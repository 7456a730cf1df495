"""Flags that take whole numbers."""

from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from latentmas_ray.errors import ConfigError

_MAX = 10**12


def whole_number(field: str, text: str, *, least: int, most: int) -> int:
    """Raises ConfigError under the name of `field`."""
    try:
        return _parse(text, least, most)
    except ValidationError:
        raise ConfigError(field, text, f"it must be a whole number from {least} to {most}") from None


def whole_numbers(field: str, text: str, example: str) -> tuple[int, ...]:
    """`1,8` as numbers. Raises ConfigError under the name of `field`."""
    try:
        return tuple(_parse(part, 0, _MAX) for part in text.split(","))
    except ValidationError:
        raise ConfigError(field, text, f"it must be whole numbers of at least 1, as in {example}") from None


def _parse(text: str, least: int, most: int) -> int:
    number: TypeAdapter[int] = TypeAdapter(Annotated[int, Field(ge=least, le=most)])
    return number.validate_strings(text)
