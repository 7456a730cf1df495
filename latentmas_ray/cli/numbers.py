"""Flags that take several numbers."""

from latentmas_ray.errors import ConfigError

_MAX_DIGITS = 12  # looked at first: int() refuses very long numbers with an error of its own


def whole_numbers(field: str, text: str, example: str) -> tuple[int, ...]:
    """`1,8` as numbers. Raises ConfigError under the name of `field`."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) <= _MAX_DIGITS for part in parts):
        raise ConfigError(field, text, f"it must be whole numbers of at least 1, as in {example}")
    return tuple(map(int, parts))
