"""The forms on the wire of Python's own types, and of numpy's. Each is registered for exactly one type."""

import builtins
import collections
import datetime
import decimal
import fractions
import importlib
import pathlib
import uuid
from collections.abc import Callable, Iterable
from typing import Any

from latentmas_ray.sandbox.exchange.wire import (
    FORMS,
    ExchangeError,
    Form,
    Structure,
    ValueReader,
    ValueWriter,
    numpy_module,
    register,
)

# Types (and the few other values) that have a name in every Python.
NAMED: dict[str, Any] = {name: value for name, value in vars(builtins).items() if isinstance(value, type)}
NAMED |= {"NoneType": type(None), "Ellipsis": Ellipsis, "NotImplemented": NotImplemented}
NAMES = {id(value): name for name, value in NAMED.items()}
_ARRAYS = "numpy"  # imported only when a program's answer has an array; this package does not need it
_NUMPY_KINDS = frozenset("biufcSUmM")
# By the type's own method: that of a subclass may say something else (`str` of a member of an enumeration).
_EXACT: dict[Any, Any] = {
    int: int.__int__,
    float: float.__float__,
    complex: complex.__complex__,
    str: str.__str__,
    bytes: bytes.__bytes__,
}
_BASES: tuple[Any, ...] = (int, float, complex, str, bytes, bytearray, tuple, list, dict, set, frozenset)
_TIMES: dict[str, Any] = {"date": datetime.date, "time": datetime.time, "datetime": datetime.datetime}
_VIEWS = {type({}.keys()): "keys", type({}.values()): "values", type({}.items()): "items"}


def write_unusual(value: Any, writer: ValueWriter) -> Structure | None:
    """Return the structure of a named tuple, of a value of numpy, or of a subclass of a type of data (an `IntEnum` is
    an int); None for what is no data."""
    if (name := NAMES.get(id(value))) is not None:
        return ["k", name]
    numpy = numpy_module()
    if numpy is not None and isinstance(value, numpy.ndarray | numpy.generic):
        return _write_numpy(value, writer, numpy)
    kind = type(value)
    if issubclass(kind, tuple) and isinstance(fields := getattr(kind, "_fields", None), tuple):
        writer.note(value)
        return ["n", kind.__name__, list(fields), *writer.write_all(tuple.__iter__(value))]
    for base in _BASES:
        if issubclass(kind, base):
            plain = _EXACT[base](value) if base in _EXACT else value
            if base in (int, float, str):
                return writer.write(plain)
            form = FORMS[base]
            if form.is_container:
                writer.note(value)
            return [form.tag, *form.write(writer, plain)]
    return None


def _write_numpy(value: Any, writer: ValueWriter, numpy: Any) -> Structure:
    kind = value.dtype.kind
    if isinstance(value, numpy.ndarray):
        writer.note(value)
        if kind in _NUMPY_KINDS:
            return ["a", value.dtype.str, list(value.shape), value.tobytes().hex()]
        if kind == "O":
            return ["A", list(value.shape), *writer.write_all(value.ravel().tolist())]
    elif kind in _NUMPY_KINDS:
        return ["g", value.dtype.str, value.tobytes().hex()]
    raise ExchangeError(f"an array of {value.dtype}")


def _read_array(reader: ValueReader, structure: list[Structure]) -> Any:
    _, dtype, shape, data = structure
    return reader.note(_array(dtype, bytes.fromhex(data)).reshape(tuple(shape)).copy())


def _read_scalar(reader: ValueReader, structure: list[Structure]) -> Any:
    (value,) = _array(structure[1], bytes.fromhex(structure[2]))
    return value


def _array(dtype: str, data: bytes) -> Any:
    numpy = importlib.import_module(_ARRAYS)
    kind = numpy.dtype(str(dtype))
    if kind.kind not in _NUMPY_KINDS or kind.fields is not None:
        raise ExchangeError("an array of this type")
    return numpy.frombuffer(data, dtype=kind) if kind.itemsize else numpy.zeros(1, dtype=kind)


def _read_object_array(reader: ValueReader, structure: list[Structure]) -> Any:
    numpy, number = importlib.import_module(_ARRAYS), reader.reserve()
    items = [reader.read(one) for one in structure[2:]]
    array = numpy.empty(len(items), dtype=object)
    for index, item in enumerate(items):
        array[index] = item
    reader.objects[number] = array.reshape(tuple(structure[1]))
    return reader.objects[number]


def _pairs(writer: ValueWriter, value: Any) -> list[Structure]:
    items = value.items() if type(value) in FORMS else dict.items(value)
    return writer.write_all(part for pair in items for part in pair)


def _into_dict(reader: ValueReader, target: Any, parts: list[Structure]) -> Any:
    for key, value in zip(parts[::2], parts[1::2], strict=True):
        read = reader.read(key)
        target[read] = reader.read(value)
    return target


def _read_dict(make: Callable[[], Any]) -> Callable[[ValueReader, list[Structure]], Any]:
    return lambda reader, structure: _into_dict(reader, reader.note(make()), structure[1:])


def _read_defaultdict(reader: ValueReader, structure: list[Structure]) -> Any:
    factory = None if structure[1] is None else NAMED[structure[1]]
    target: Any = reader.note(collections.defaultdict(factory))
    return _into_dict(reader, target, structure[2:])


def _read_list(reader: ValueReader, structure: list[Structure]) -> Any:
    target: list[Any] = reader.note([])
    target.extend(reader.read_all(structure[1:]))
    return target


def _read_deque(reader: ValueReader, structure: list[Structure]) -> Any:
    target: collections.deque[Any] = reader.note(collections.deque(maxlen=structure[1]))
    target.extend(reader.read_all(structure[2:]))
    return target


def _read_set(reader: ValueReader, structure: list[Structure]) -> Any:
    target: set[Any] = reader.note(set())
    target.update(reader.read_all(structure[1:]))
    return target


def _read_closed(make: Callable[[Iterable[Any]], Any]) -> Callable[[ValueReader, list[Structure]], Any]:
    def read(reader: ValueReader, structure: list[Structure]) -> Any:
        number = reader.reserve()
        reader.objects[number] = make(reader.read_all(structure[1:]))
        return reader.objects[number]

    return read


def _read_named_tuple(reader: ValueReader, structure: list[Structure]) -> Any:
    number = reader.reserve()
    kind = collections.namedtuple(structure[1], [str(name) for name in structure[2]])  # type: ignore[misc]
    reader.objects[number] = kind(*reader.read_all(structure[3:]))
    return reader.objects[number]


def _write_view(writer: ValueWriter, value: Any) -> list[Structure]:
    return [_VIEWS[type(value)], writer.write(list(value))]


def _read_view(reader: ValueReader, structure: list[Structure]) -> Any:
    items = reader.read(structure[2])
    if structure[1] == "keys":
        return dict.fromkeys(items).keys()
    return dict(items).items() if structure[1] == "items" else dict(enumerate(items)).values()


def _write_time(writer: ValueWriter, value: Any) -> list[Structure]:
    zone = getattr(value, "tzinfo", None)
    if zone is not None and not isinstance(zone, datetime.timezone):
        raise ExchangeError("a time in a named zone")
    return [type(value).__name__, value.isoformat(), getattr(value, "fold", 0)]


def _read_time(reader: ValueReader, structure: list[Structure]) -> Any:
    value: Any = _TIMES[structure[1]].fromisoformat(structure[2])
    return value.replace(fold=structure[3]) if structure[3] else value


def _write_default(writer: ValueWriter, value: Any) -> list[Structure]:
    return [NAMES.get(id(value.default_factory)), *_pairs(writer, value)]


def _write_bounds(writer: ValueWriter, value: Any) -> list[Structure]:
    return writer.write_all((value.start, value.stop, value.step))


def _write_ratio(writer: ValueWriter, value: Any) -> list[Structure]:
    return writer.write_all((value.numerator, value.denominator))


def _register_all() -> None:
    kind: Any
    for kind, tag in ((tuple, "t"), (frozenset, "f")):
        register(kind, Form(tag, ValueWriter.write_all, _read_closed(kind), is_container=True))
    register(list, Form("l", ValueWriter.write_all, _read_list, is_container=True))
    register(set, Form("s", ValueWriter.write_all, _read_set, is_container=True))
    maps: tuple[tuple[type, str], ...] = ((dict, "d"), (collections.Counter, "C"), (collections.OrderedDict, "O"))
    for kind, tag in maps:
        register(kind, Form(tag, _pairs, _read_dict(kind), is_container=True))
    register(collections.defaultdict, Form("D", _write_default, _read_defaultdict, is_container=True))
    register(collections.deque, Form("q", lambda w, v: [v.maxlen, *w.write_all(v)], _read_deque, is_container=True))
    register(
        bytearray, Form("y", lambda w, v: [v.hex()], lambda r, s: r.note(bytearray.fromhex(s[1])), is_container=True)
    )
    for kind in _VIEWS:
        register(kind, Form("V", _write_view, _read_view))
    register(bytes, Form("b", lambda w, v: [v.hex()], lambda r, s: bytes.fromhex(s[1])))
    register(int, Form("i", lambda w, v: [hex(v)], lambda r, s: int(s[1], 16)))
    register(complex, Form("c", lambda w, v: [v.real, v.imag], lambda r, s: complex(s[1], s[2])))
    register(range, Form("r", _write_bounds, lambda r, s: range(*r.read_all(s[1:]))))
    register(slice, Form("S", _write_bounds, lambda r, s: slice(*r.read_all(s[1:]))))
    register(decimal.Decimal, Form("m", lambda w, v: [str(v)], lambda r, s: decimal.Decimal(s[1])))
    register(fractions.Fraction, Form("M", _write_ratio, lambda r, s: fractions.Fraction(*r.read_all(s[1:]))))
    for kind in _TIMES.values():
        register(kind, Form("v", _write_time, _read_time))
    register(
        datetime.timedelta,
        Form("u", lambda w, v: [v.days, v.seconds, v.microseconds], lambda r, s: datetime.timedelta(s[1], s[2], s[3])),
    )
    register(uuid.UUID, Form("U", lambda w, v: [v.hex], lambda r, s: uuid.UUID(hex=s[1])))
    register(pathlib.PurePosixPath, Form("p", lambda w, v: [str(v)], lambda r, s: pathlib.PurePosixPath(s[1])))
    register(pathlib.PosixPath, Form("P", lambda w, v: [str(v)], lambda r, s: pathlib.PosixPath(s[1])))
    for tag, read in (("n", _read_named_tuple), ("a", _read_array), ("A", _read_object_array), ("g", _read_scalar)):
        register(type(tag, (), {}), Form(tag, _never, read))
    register(type("k", (), {}), Form("k", _never, lambda r, s: NAMED[s[1]]))


def _never(writer: ValueWriter, value: Any) -> list[Structure]:
    raise AssertionError("written by write_unusual")


_register_all()
