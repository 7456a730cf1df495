"""The program's side: runs the program, then carries out what the tests ask. Nothing here is trusted by the tests."""

import collections.abc
import enum
import importlib
import inspect
import io
import operator
import sys
import threading
import types
from collections.abc import Callable
from typing import Any

from latentmas_ray.sandbox.exchange.changes import snapshot, state_of, write_changes
from latentmas_ray.sandbox.exchange.channel import MessageChannel
from latentmas_ray.sandbox.exchange.forms import write_unusual
from latentmas_ray.sandbox.exchange.wire import Codec, ExchangeError, Structure, ValueReader, ValueWriter

MODULE = "program"
_MAX_REASON_CHARS = 300
_MAX_PRINTED_CHARS = 1 << 20


def serve(program: str, shared: list[str], channel: MessageChannel) -> None:
    """Run the program, tell whether it ended without an exception, and answer until the tests' process ends.

    `shared` are the names of classes that the tests' process has too: their objects cross as data.
    """
    printed = io.BytesIO()
    sys.stdout = io.TextIOWrapper(printed, encoding="utf-8", write_through=True)
    module = types.ModuleType(MODULE)
    sys.modules[MODULE] = module
    answers = Answers(module, set(shared), channel, printed)
    try:
        exec(compile(program, "<program>", "exec"), module.__dict__)
    except BaseException as error:  # noqa: BLE001 - includes SystemExit, KeyboardInterrupt and the program's own classes
        channel.send(["failed", reason_of(error)])
        return
    channel.send(["loaded"])
    while True:
        answers.answer(channel.receive())


def reason_of(error: BaseException) -> str:
    """Return an exception as one line."""
    try:
        text = f"{type(error).__name__}: {error}"
    except BaseException:  # noqa: BLE001 - the program's own exception may do anything
        text = "an exception that cannot be printed"
    return " ".join(text[:_MAX_REASON_CHARS].split())


class Answers(Codec):
    """Carries out what the tests' process asks, one message after the other."""

    def __init__(
        self, module: types.ModuleType, shared: set[str], channel: MessageChannel, printed: io.BytesIO
    ) -> None:
        self._module, self._shared, self._channel, self._printed = module, shared, channel, printed
        self._objects: list[Any] = []
        self._numbers: dict[int, int] = {}
        self._named: set[type] = set()  # classes that the tests name: their objects never cross as data
        self._thread = threading.get_ident()

    def answer(self, message: Structure) -> None:
        """Carry out one request and send the answer."""
        if message[0] == "names":
            self._channel.send(self._names(message[1]))
            return
        reader = ValueReader(self)
        arguments, values = (reader.read_all(part) for part in message[1:3])
        keywords = dict(zip(message[3], values, strict=True))
        before = snapshot(reader.objects)
        try:
            result, has_raised = _ACTIONS[message[0]](*arguments, **keywords), False
        except BaseException as error:  # noqa: BLE001 - the tests decide what it means
            result, has_raised = error, True
        self._channel.send(self._result(result, has_raised, reader.objects, before))

    def _result(self, result: Any, has_raised: bool, objects: list[Any], before: list[Any]) -> Structure:
        try:
            changes = write_changes(objects, before, ValueWriter(self, objects))
            # The tests see changes when their statement has ended, but the result at once: then it shares nothing.
            writer = ValueWriter(self, None if changes else objects)
            structure = self._error(result, writer) if has_raised else writer.write(result)
        except RecursionError:
            return ["refused", "a value that is nested too deeply"]
        except MemoryError:
            return ["refused", "a value that is too large"]
        except ExchangeError as error:
            return ["refused", str(error)]
        return ["raised" if has_raised else "returned", structure, changes, self._take_printed()]

    def _take_printed(self) -> str:
        text = self._printed.getvalue().decode(errors="replace")[:_MAX_PRINTED_CHARS]
        self._printed.seek(0)
        self._printed.truncate()
        return text

    def _names(self, names: list[str]) -> Structure:
        """Return those names that the program defines: their values, or None for one that cannot cross."""
        space = vars(self._module)
        found = {name: space[name] for name in names if name in space}
        self._named.update(value for value in found.values() if isinstance(value, type))
        answers: list[Structure] = []
        for name, value in found.items():
            try:
                answers.append([name, ValueWriter(self).write(value)])
            except (ExchangeError, RecursionError):
                answers.append([name])
        return ["names", answers]

    def export(self, value: Any, writer: ValueWriter) -> Structure:
        """Data as data; functions, iterators, classes and objects by a number. Raises ExchangeError."""
        kind = type(value)
        if kind.__name__ in self._shared and vars(self._module).get(kind.__name__) is kind:
            return write_object(value, writer)
        if isinstance(value, BaseException):
            return self._error(value, writer)
        if not self._named.intersection(kind.__mro__) and (data := write_unusual(value, writer)) is not None:
            return data
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, types.ModuleType):
            raise ExchangeError("a module")
        if inspect.iscoroutine(value):
            return self._handle("coroutine", value)
        if isinstance(value, collections.abc.Iterator):
            return self._handle("iterator", value)
        if callable(value) and kind.__module__ in ("builtins", "functools"):
            return self._handle("function", value)
        return [*self._handle("object", value), [self._number(one) for one in kind.__mro__ if one in self._named]]

    def import_(self, structure: list[Structure], reader: ValueReader) -> Any:
        """What is by number, functions of the tests, and what libraries have, by name. Raises ExchangeError."""
        tag = structure[0]
        if tag == "h":
            return self._objects[structure[1]]
        if tag == "o":
            kind = vars(self._module).get(structure[1])
            if not isinstance(kind, type):
                raise ExchangeError(f"the program has no class {structure[1]}")
            return read_object(kind, structure, reader)
        if tag == "K":
            value: Any = importlib.import_module(structure[1])
            return operator.attrgetter(structure[2])(value)
        if tag == "I":
            return iter(reader.read_all(structure[1:]))
        if tag == "e":
            return reader.read(structure[1])(*reader.read_all(structure[2]))
        if tag == "F":
            return self._callback(structure[1], structure[2])
        return super().import_(structure, reader)

    def _handle(self, kind: str, value: Any) -> list[Structure]:
        return ["h", self._number(value), kind, getattr(value, "__name__", type(value).__name__)]

    def _number(self, value: Any) -> int:
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self._objects)
            self._objects.append(value)
        return self._numbers[id(value)]

    def _class(self, kind: type) -> Structure:
        """A class of exceptions with the class that it is derived from, so that `except` finds it."""
        if not issubclass(kind, BaseException):
            return self._handle("class", kind)
        above = next(base for base in kind.__bases__ if issubclass(base, BaseException))
        return ["x", self._number(kind), kind.__name__, ValueWriter(self).write(above)]

    def _error(self, error: BaseException, writer: ValueWriter) -> Structure:
        try:
            arguments = writer.write_all(error.args)
            state = writer.write_all(part for pair in vars(error).items() for part in pair)
        except (ExchangeError, RecursionError):
            arguments, state = [reason_of(error)], []
        return ["e", writer.write(type(error)), arguments, state, reason_of(error)]

    def _callback(self, number: int, name: str) -> Callable[..., Any]:
        """Return a function that calls one of the tests' functions."""

        def call(*arguments: Any, **keywords: Any) -> Any:
            if threading.get_ident() != self._thread:
                raise RuntimeError("a function of the tests can be called in the main thread only")
            writer = ValueWriter(self)
            parts = writer.write_all(arguments), writer.write_all(keywords.values())
            self._channel.send(["callback", number, *parts, list(keywords)])
            while (message := self._channel.receive())[0] not in ("result", "error"):
                self.answer(message)
            value = ValueReader(self).read(message[1])
            if message[0] == "error":
                raise value
            return value

        call.__name__ = call.__qualname__ = name
        return call


def write_object(value: Any, writer: ValueWriter) -> Structure:
    """Return an object of a class that both sides have as its attributes."""
    name = type(value).__name__
    if isinstance(value, enum.Enum):
        return ["o", name, value.name]
    writer.note(value)
    return ["o", name, *writer.write_all(part for pair in state_of(value).items() for part in pair)]


def read_object(kind: type, structure: list[Structure], reader: ValueReader) -> Any:
    """Return an object of a class that both sides have, made without calling anything of it. Raises ExchangeError."""
    if issubclass(kind, enum.Enum):
        return kind[structure[2]]
    value = reader.note(object.__new__(kind))
    parts = reader.read_all(structure[2:])
    for name, part in zip(parts[::2], parts[1::2], strict=True):
        if not isinstance(name, str) or name.startswith("__"):
            raise ExchangeError("an attribute that is none")
        object.__setattr__(value, name, part)
    return value


def _binary(target: Any, name: str, other: Any) -> Any:
    return getattr(type(target), name)(target, other)


def _run_coroutine(target: Any) -> Any:
    import asyncio

    return asyncio.run(target)


_ACTIONS: dict[str, Callable[..., Any]] = {
    "call": lambda target, /, *arguments, **keywords: target(*arguments, **keywords),
    "binary": _binary,
    "getattr": getattr,
    "setattr": setattr,
    "delattr": delattr,
    "getitem": operator.getitem,
    "setitem": operator.setitem,
    "delitem": operator.delitem,
    "contains": operator.contains,
    "eq": operator.eq,
    "isinstance": isinstance,
    "issubclass": issubclass,
    "len": len,
    "iter": iter,
    "next": next,
    "reversed": reversed,
    "hash": hash,
    "bool": bool,
    "str": str,
    "repr": repr,
    "format": format,
    "abs": abs,
    "int": int,
    "float": float,
    "round": round,
    "neg": operator.neg,
    "enter": lambda target: type(target).__enter__(target),
    "exit": lambda target, *error: type(target).__exit__(target, *error),
    "await": _run_coroutine,
}
