"""What a template may compute: a bound on the work of one rendering, and how large values are.

Values are weighed before they are made where they can be much larger than what they are made of, and nested ones as
often as they occur, since printing and comparing them takes so long.
"""

import re
from collections.abc import Callable, Iterable, Iterator, MappingView
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from jinja2.exceptions import SecurityError

MAX_CHARS = 4_000_000  # of a rendered text, and of every value on the way to it
MAX_WORK = 100_000_000  # of one rendering: the characters of all values that it makes, and its steps
MAX_NUMBER = 10_000  # of a range, a width, a count
MAX_BITS = 10_000  # of a number that an expression makes

_ELEMENT = 8  # what a value weighs besides its characters: a reference's bytes
_TURN = 400  # what one turn of a loop weighs, by the time that it takes
_CALL = 2000  # and a call, a filter or a test
_READ = 16  # reading so many characters weighs as much as making one

_WIDE_FORMAT = re.compile(r"%[^%a-zA-Z]*(\*|\d{5})")


class Meter:
    """What one rendering may still do. Everything raises SecurityError beyond that."""

    def __init__(self) -> None:
        self._left = MAX_WORK

    def make(self, size: int) -> None:
        """Values of `size` characters are made."""
        if size > MAX_CHARS + _ELEMENT:
            raise SecurityError(f"a value would have more than {MAX_CHARS} characters")
        self._spend(size)

    def read(self, values: Iterable[Any]) -> None:
        """Values are looked through, as a comparison does."""
        self._spend(size_of(values) // _READ)

    def turn(self, count: int) -> None:
        """A loop goes round so many times."""
        self._spend(count * _TURN)

    def call(self, values: Iterable[Any]) -> None:
        """A function, a filter or a test looks through its arguments."""
        self._spend(_CALL)
        self.read(values)

    def _spend(self, work: int) -> None:
        self._left -= work
        if self._left < 0:
            turns, calls = MAX_WORK // _TURN, MAX_WORK // _CALL
            raise SecurityError(
                f"it computes too much: at most {turns} turns of loops, {calls} calls and {MAX_WORK} characters"
            )


_METER: ContextVar[Meter] = ContextVar("_METER")


@contextmanager
def metered() -> Iterator[None]:
    """Whatever is compiled or rendered inside shares one meter."""
    token = _METER.set(Meter())
    try:
        yield
    finally:
        _METER.reset(token)


def meter() -> Meter:
    """That of the rendering that goes on."""
    return _METER.get()


def size_of(values: Iterable[Any]) -> int:
    """Characters and elements of values, those of nested ones as often as they occur; a little more than MAX_CHARS
    stands for whatever is larger."""
    total, todo = 0, list(values)
    while todo and total <= MAX_CHARS + _ELEMENT:
        value = todo.pop()
        total += _ELEMENT
        if isinstance(value, str):
            total += len(value)
        elif isinstance(value, int):
            total += value.bit_length()
        elif isinstance(value, dict):
            todo += value.keys()
            todo += value.values()
        elif isinstance(value, list | tuple | set | frozenset | MappingView):
            todo += value  # type: ignore[arg-type]  # all views can be gone through
    return total


def check_numbers(values: Iterable[Any]) -> None:
    """Raises SecurityError for a number that is too large as a width or a count."""
    for value in values:
        if isinstance(value, int) and abs(value) > MAX_NUMBER:
            number = str(value) if value.bit_length() < 64 else "a number"
            raise SecurityError(f"{number} is too large; at most {MAX_NUMBER} is allowed here")


def result_size(symbol: str, left: Any, right: Any) -> int:
    """Of `left symbol right`, at most. Raises SecurityError for a number that is too large."""
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * abs(right) if symbol == "**" else left.bit_length() + right.bit_length()
        if bits > MAX_BITS:
            raise SecurityError(f"a number would have more than {MAX_BITS} bits")
        return bits
    if symbol == "*":
        sequence, times = (right, left) if isinstance(left, int) else (left, right)
        return _ELEMENT + (size_of([sequence]) - _ELEMENT) * max(0, times) if isinstance(times, int) else 0
    if symbol == "%" and isinstance(left, str):
        if _WIDE_FORMAT.search(left):
            raise SecurityError(f"the width in {left[:40]!r} is too large")
        widths = sum(int(digits) for digits in re.findall(r"\d{1,4}", left))
        # A mapping's values may be asked for again and again.
        return len(left) + widths + size_of([right]) * (left.count("%") if isinstance(right, dict) else 1)
    return size_of([left, right]) if symbol == "+" else 0


def _replaced_size(text: Any, old: Any, new: Any, count: Any = None) -> int:
    return len(str(text)) + str(text).count(str(old)) * len(str(new))


def _joined_size(items: Any, between: Any = "", attribute: Any = None) -> int:
    return size_of([items]) + len(items) * size_of([between])


def _indented_size(s: Any, width: Any = 4, first: bool = False, blank: bool = False) -> int:
    return len(s) + (len(s.splitlines()) + 1) * (len(width) if isinstance(width, str) else width)


def _wrapped_size(s: Any, width: Any = 79, break_long_words: Any = True, wrapstring: Any = None, *_: Any) -> int:
    return len(s) * (1 + len(wrapstring or "\n"))


def _sum_size(iterable: Any, attribute: Any = None, start: Any = 0) -> int:
    if not isinstance(start, int | float):  # lists would be added up one by one, the first of them in its place
        raise SecurityError("sum adds numbers only")
    return 0


# What makes much out of little, and how much at most; with the signatures of the filters and methods themselves.
FILTER_SIZES: dict[str, Callable[..., int]] = {
    "indent": _indented_size,
    "join": _joined_size,
    "pprint": lambda value: 10 * size_of([value]),  # by its time
    "replace": _replaced_size,
    "sum": _sum_size,
    "wordwrap": _wrapped_size,
}
METHOD_SIZES: dict[str, Callable[..., int]] = {
    "expandtabs": lambda text, width=8: len(text) + text.count("\t") * width,
    "join": lambda text, items: _joined_size(items, text),
    "replace": _replaced_size,
    "translate": lambda text, table: len(text) * max((len(str(new)) for new in table.values()), default=0),
}
