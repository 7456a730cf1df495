"""Data between the tests' process and the program's: values as JSON, with their types, and nothing that runs.

A value without structure is itself; everything else is a list that begins with a tag. A list, dict or the like gets the
next number when it is written, and `["@", number]` where it comes again, so that values may share parts or contain
themselves. What has no tag is left to `Codec.export` and `Codec.import_`: each side decides what it lets through.

    ["l", …] list   ["t", …] tuple   ["s", …] set   ["f", …] frozenset   ["d", key, value, …] dict
    ["q", maxlen, …] deque   ["C", …] Counter   ["O", …] OrderedDict   ["D", factory, …] defaultdict
    ["n", name, fields, …] namedtuple   ["o", class, name, value, …] object of a class that both sides have
    ["b", hex] bytes   ["y", hex] bytearray   ["i", hex] large int   ["c", re, im] complex   ["r", start, stop, step]
    ["m", text] Decimal   ["M", a, b] Fraction   ["v", kind, …] date and time   ["V", kind, …] view of a dict
    ["a", dtype, shape, hex] array   ["A", shape, …] array of objects   ["g", dtype, hex] scalar of numpy
    ["k", name] type that every Python has
"""

import json
import sys
from collections.abc import Callable, Iterable
from typing import Any

Structure = Any  # what json can write: None, bool, int, float, str and lists of them

_LARGE_BITS = 4000
_PLAIN = frozenset({type(None), bool, float, str})
_PLAIN_OR_INT = _PLAIN | {int}
MAX_FRAME_BYTES = 256 * 2**20
MAX_VALUES = 10 * 10**6  # in one message: both processes and the message itself are in memory at once


class ExchangeError(ValueError):
    """A value that has no form on the wire, or a form that is none of a value."""


def dumps(structure: Structure) -> bytes:
    """Return a structure as one line of JSON."""
    return json.dumps(structure, separators=(",", ":")).encode()


def loads(data: bytes) -> Structure:
    """Return the structure of one line of JSON. Raises ExchangeError."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ExchangeError(f"not JSON: {type(error).__name__}") from None


class Codec:
    """Writes and reads values; one of each process. Subclasses say what else goes over the wire."""

    def export(self, value: Any, writer: "ValueWriter") -> Structure:
        """Return the structure of a value without a form of its own. Raises ExchangeError."""
        raise ExchangeError(f"a value of type {type(value).__name__}")

    def import_(self, structure: list[Structure], reader: "ValueReader") -> Any:
        """Return the value of a structure with a tag that is not listed above. Raises ExchangeError."""
        raise ExchangeError(f"the tag {str(structure[0])[:20]!r}")

    def before_writing(self, value: Any) -> None:
        """Called before a container is written."""


class ValueWriter:
    """Writes the values of one message. `objects` are the containers by number, which continue those of `known`."""

    def __init__(self, codec: Codec, known: list[Any] | None = None) -> None:
        self.codec = codec
        self.objects: list[Any] = list(known or ())
        self._num_values = 0
        self._numbers = {id(value): number for number, value in enumerate(self.objects)}

    def write(self, value: Any) -> Structure:
        """Return the structure of a value. Raises ExchangeError."""
        kind = type(value)
        if kind in _PLAIN:
            return value
        if kind is int:
            return value if value.bit_length() <= _LARGE_BITS else ["i", hex(value)]
        if (number := self._numbers.get(id(value))) is not None:
            return ["@", number]
        form = FORMS.get(kind)
        if form is None:
            return self.codec.export(value, self)
        if not form.is_container:
            return [form.tag, *form.write(self, value)]
        self.note(value)
        return [form.tag, *form.write(self, value)]

    def note(self, value: Any) -> None:
        """Give a container the next number."""
        self.codec.before_writing(value)
        self._numbers[id(value)] = len(self.objects)
        self.objects.append(value)

    @staticmethod
    def _are_small(values: list[Any], kinds: set[type]) -> bool:
        numbers = values if kinds == {int} else [value for value in values if type(value) is int]
        return max(map(int.bit_length, numbers)) <= _LARGE_BITS

    def rewrite(self, number: int) -> Structure:
        """Return the structure of a container that has a number, with its present contents. The reader makes another
        container of it, which takes the next number."""
        value = self.objects[number]
        form = FORMS.get(type(value))
        if form is None:
            structure = self.codec.export(value, self)
            self._numbers[id(value)] = number
            return structure
        self.objects.append(value)
        return [form.tag, *form.write(self, value)]

    def write_all(self, several: Iterable[Any]) -> list[Structure]:
        """Return the structures of several values; fast for those without structure."""
        values = list(several)
        self._num_values += len(values)
        if self._num_values > MAX_VALUES:
            raise ExchangeError(f"a value of more than {MAX_VALUES // 10**6} million parts")
        kinds = set(map(type, values))
        if kinds <= _PLAIN or (kinds <= _PLAIN_OR_INT and self._are_small(values, kinds)):
            return values
        return [self.write(value) for value in values]


class ValueReader:
    """Reads the values of one message; the counterpart of `ValueWriter`."""

    def __init__(self, codec: Codec, known: list[Any] | None = None) -> None:
        self.codec = codec
        self.objects: list[Any] = list(known or ())

    def read(self, structure: Structure) -> Any:
        """Return the value of a structure. Raises ExchangeError for whatever is not one."""
        if type(structure) is not list:
            if isinstance(structure, dict):
                raise ExchangeError("an object of JSON")
            return structure
        try:
            tag = structure[0]
            if tag == "@":
                return self._again(structure[1])
            form = BY_TAG.get(tag)
            return self.codec.import_(structure, self) if form is None else form.read(self, structure)
        except ExchangeError:
            raise
        except (TypeError, ValueError, IndexError, KeyError, AttributeError, OverflowError, ArithmeticError) as error:
            raise ExchangeError(f"{type(error).__name__}: {error}") from None

    def read_all(self, structures: list[Structure]) -> list[Any]:
        """Return the values of several structures; fast for those without structure."""
        kinds = set(map(type, structures))
        return structures if list not in kinds and dict not in kinds else [self.read(one) for one in structures]

    def note(self, value: Any) -> Any:
        """Give a container the next number, before its contents are read."""
        self.objects.append(value)
        return value

    def reserve(self) -> int:
        """Return the number of a container that is made only after its contents are read."""
        self.objects.append(_UNFINISHED)
        return len(self.objects) - 1

    def _again(self, number: Any) -> Any:
        if type(number) is not int or not 0 <= number < len(self.objects) or self.objects[number] is _UNFINISHED:
            raise ExchangeError("a reference to nothing")
        return self.objects[number]


class Form:
    """How values of one exact type go over the wire."""

    def __init__(
        self,
        tag: str,
        write: Callable[[ValueWriter, Any], list[Structure]],
        read: Callable[[ValueReader, list[Structure]], Any],
        *,
        is_container: bool = False,
    ) -> None:
        self.tag, self.write, self.read, self.is_container = tag, write, read, is_container


_UNFINISHED = object()
FORMS: dict[type, Form] = {}
BY_TAG: dict[str, Form] = {}


def register(kind: type, form: Form) -> None:
    """Let values of exactly this type go over the wire in this form."""
    FORMS[kind] = form
    BY_TAG.setdefault(form.tag, form)


def numpy_module() -> Any:
    """Return numpy if this process has it already, else None: a value of numpy can only come from it."""
    return sys.modules.get("numpy")
