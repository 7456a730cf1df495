"""The tests' side: asks the program's process, reads its answers as data, and trusts none of them."""

import builtins
import itertools
import operator
import sys
import types
from collections.abc import Iterator
from typing import Any, NoReturn

from latentmas_ray.sandbox.exchange.answer import read_object, reason_of, write_object
from latentmas_ray.sandbox.exchange.changes import assign, read_changes
from latentmas_ray.sandbox.exchange.channel import ChannelClosedError, MessageChannel
from latentmas_ray.sandbox.exchange.forms import NAMED, write_unusual
from latentmas_ray.sandbox.exchange.remote import (
    ObjectState,
    Remote,
    RemoteClass,
    RemoteFunction,
    RemoteIterator,
    RemoteObject,
)
from latentmas_ray.sandbox.exchange.wire import Codec, ExchangeError, Structure, ValueReader, ValueWriter

CANNOT_CROSS = object()  # of a name: a module, for example
_MAX_ITEMS = 1_000_000


class TestsEnded(BaseException):
    """The tests cannot pass any more: no `except` of theirs may continue."""


class Exchange(Codec):
    """The tests' end of the connection. `failure` says why the tests have not passed, whatever they do afterwards.
    `waiting` has changes to arguments that are not made yet."""

    def __init__(self, channel: MessageChannel) -> None:
        self._channel = channel
        self.failure: str | None = None
        self.has_vanished = False
        self.num_asked = 0
        self.shared: dict[str, type] = {}  # classes that both sides have, by name
        self._functions: list[Any] = []
        self._classes: dict[int, Any] = {}
        self.waiting: dict[int, tuple[Any, Any, int]] = {}  # by id: container, its new contents, depth of the call

    def refuse(self, reason: str) -> NoReturn:
        """End the tests as not passed."""
        self.failure = self.failure or reason
        raise TestsEnded(reason)

    def ask(self, action: str, *arguments: Any, **keywords: Any) -> Any:
        """Have the program's process carry out an action and return the result, or raise its exception."""
        writer = ValueWriter(self)
        try:
            parts = writer.write_all(arguments), writer.write_all(keywords.values())
        except (ExchangeError, RecursionError) as error:
            self.refuse(f"the tests give the program {error}, which cannot be handed to another process")
        answer = self._exchange([action, *parts, list(keywords)])
        try:
            return self._read(answer, writer.objects)
        except (ExchangeError, RecursionError) as error:
            self.refuse(f"the program's answer is not understood: {error}")

    def ask_names(self, names: list[str]) -> dict[str, Any]:
        """Return what the program defines of these names; CANNOT_CROSS for a module and the like."""
        found: dict[str, Any] = {}
        try:
            for name, *structure in self._exchange(["names", names])[1]:
                found[str(name)] = ValueReader(self).read(structure[0]) if structure else CANNOT_CROSS
        except (ExchangeError, RecursionError, TypeError, ValueError, IndexError) as error:
            self.refuse(f"the program's answer is not understood: {error}")
        return {name: value for name, value in found.items() if name in names}

    def settle(self, depth: int) -> None:
        """Make the changes to arguments of calls that were made at this depth of the stack, or deeper."""
        for key, (target, new, at) in list(self.waiting.items()):
            if at >= depth:
                del self.waiting[key]
                assign(target, new)

    def before_writing(self, value: Any) -> None:
        """Make the changes to a container before the program gets it again."""
        if self.waiting and (entry := self.waiting.get(id(value))) is not None and entry[0] is value:
            del self.waiting[id(value)]
            assign(value, entry[1])

    def _exchange(self, message: Structure) -> Any:
        """Send a message, run what functions of the tests the program calls meanwhile, and return the answer."""
        if self.failure is not None:
            raise TestsEnded(self.failure)
        self.num_asked += 1
        try:
            self._channel.send(message)
            while (answer := self._channel.receive())[0] == "callback":
                self._channel.send(self._call_back(answer))
        except ChannelClosedError:
            self.has_vanished = True
            self.refuse("the program ended before its tests did")
        except (ExchangeError, TypeError, IndexError, KeyError, RecursionError) as error:
            self.refuse(f"the program's answer is not understood: {error}")
        return answer

    def _read(self, answer: Any, objects: list[Any]) -> Any:
        kind = answer[0]
        if kind == "refused":
            self.refuse(f"the program gives {str(answer[1])[:200]}, which cannot be handed to the tests")
        if kind not in ("returned", "raised") or len(answer) != 4:
            raise ExchangeError("an answer of no kind")
        _, structure, changes, printed = answer
        if printed:
            sys.stdout.write(str(printed))
        depth = _depth()  # of the statement that asked
        for target, new in read_changes(changes, objects, ValueReader(self, objects)):
            if type(target) is not type(new):
                raise ExchangeError("a change of type")
            self.waiting[id(target)] = (target, new, depth)
        value = ValueReader(self, None if changes else objects).read(structure)
        if kind == "returned":
            return value
        if not isinstance(value, Exception):
            self.refuse(str(structure[4]))
        raise value

    def _call_back(self, message: list[Structure]) -> Structure:
        """Call one of the tests' functions for the program."""
        reader, writer = ValueReader(self), ValueWriter(self)
        arguments, keywords = reader.read_all(message[2]), reader.read_all(message[3])
        names = [str(name) for name in message[4]]
        function = self._functions[int(message[1])]
        try:
            return ["result", writer.write(function(*arguments, **dict(zip(names, keywords, strict=True))))]
        except Exception as error:  # noqa: BLE001 - the program decides what it means, but for a failed assertion
            if isinstance(error, AssertionError):
                self.refuse(reason_of(error))
            return ["error", ["e", ["k", _builtin_name(type(error))], [str(error)]]]

    def export(self, value: Any, writer: ValueWriter) -> Structure:
        """Data as data; what came from the program by its number; functions to be called back. Raises ExchangeError."""
        if isinstance(value, Remote):
            return ["h", value._number]
        kind = type(value)
        if kind is RemoteObject:
            return ["h", value._remote.number]
        if (number := getattr(value, "_remote_number", None)) is not None and isinstance(value, type):
            return ["h", number]
        if self.shared.get(kind.__name__) is kind:
            return write_object(value, writer)
        if (data := write_unusual(value, writer)) is not None:
            return data
        if isinstance(value, BaseException):
            return ["e", ["k", _builtin_name(kind)], writer.write_all(value.args)]
        if (place := _public_name(value)) is not None:
            return ["K", *place]
        if isinstance(value, Iterator):
            items = list(itertools.islice(value, _MAX_ITEMS + 1))
            if len(items) > _MAX_ITEMS:
                raise ExchangeError(f"an iterator of more than {_MAX_ITEMS} values")
            return ["I", *writer.write_all(items)]
        if callable(value) and not isinstance(value, type):
            self._functions.append(value)
            return ["F", len(self._functions) - 1, getattr(value, "__name__", "function")]
        raise ExchangeError(f"a value of type {kind.__name__}")

    def import_(self, structure: list[Structure], reader: ValueReader) -> Any:
        """Stand-ins for what is not data. Raises ExchangeError."""
        tag = structure[0]
        if tag == "h":
            return self._stand_in(*structure[1:])
        if tag == "x":
            return self._exception_class(int(structure[1]), str(structure[2]), reader.read(structure[3]))
        if tag == "e":
            return self._exception(structure, reader)
        if tag == "o" and structure[1] in self.shared:
            return read_object(self.shared[structure[1]], structure, reader)
        return super().import_(structure, reader)

    def _stand_in(self, number: int, kind: str, name: str, classes: tuple[int, ...] | list[int] = ()) -> Any:
        if type(number) is not int:
            raise ExchangeError("a number that is none")
        if kind == "class":
            return self._classes.setdefault(number, RemoteClass(self, number, str(name)))
        if kind == "function":
            return RemoteFunction(self, number, str(name))
        if kind == "iterator":
            return RemoteIterator(self, number, str(name))
        if kind == "coroutine":
            return self._await(Remote(self, number, str(name)))
        is_named = any(one in self._classes for one in classes)
        return RemoteObject(ObjectState(self, number, str(name), is_named=is_named))

    async def _await(self, coroutine: Remote) -> Any:
        return self.ask("await", coroutine)

    def _exception_class(self, number: int, name: str, above: Any) -> Any:
        if not (isinstance(above, type) and issubclass(above, BaseException)):
            raise ExchangeError("an exception of no kind")
        if number not in self._classes:
            self._classes[number] = type(name, (above,), {"_remote_number": number})
        return self._classes[number]

    def _exception(self, structure: list[Structure], reader: ValueReader) -> BaseException:
        kind = reader.read(structure[1])
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise ExchangeError("an exception of no kind")
        arguments, state = reader.read_all(structure[2]), reader.read_all(structure[3])
        try:
            error: BaseException = kind(*arguments)
        except TypeError:
            error = kind(str(structure[4]))
        for name, part in zip(state[::2], state[1::2], strict=True):
            if isinstance(name, str) and not name.startswith("_"):
                error.__dict__[name] = part
        return error


def _depth() -> int:
    """Return the depth of the frame that asked: outside of `_read`, `ask` and the stand-in's method."""
    depth, frame = 0, sys._getframe(4)
    while (outer := frame.f_back) is not None:
        depth, frame = depth + 1, outer
    return depth


def _builtin_name(kind: type[BaseException]) -> str:
    """Return the name of the nearest exception that every Python has."""
    return next(str(one.__name__) for one in kind.__mro__ if NAMED.get(one.__name__) is one)


def _public_name(value: Any) -> tuple[str, str] | None:
    """Return the module and name of a function or class of a library, by which the program's process finds it too."""
    owner = getattr(value, "__objclass__", None)
    module = getattr(owner or value, "__module__", None) or "builtins"
    name = getattr(value, "__qualname__", None)
    if not isinstance(name, str) or module not in sys.modules or module == "tests":
        return None
    try:
        found: object = operator.attrgetter(name)(sys.modules[module])
    except AttributeError:
        return None
    is_own = isinstance(value, types.FunctionType) and value.__module__ not in sys.stdlib_module_names
    return (module, name) if (found is value and not is_own) or getattr(builtins, name, None) is value else None
