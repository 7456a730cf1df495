"""What stands in the tests for the program's functions, iterators, objects and classes.

Everything asked of them is carried out in the program's process and answered with data. What would let the program
itself say whether a test passes is refused: an object of the program is never compared with data by its own operators,
and one of a class that the tests do not name does not play the part of a Python value (`startswith`, `issubset`, …).
"""

from collections.abc import Callable, Iterator
from typing import Any, NoReturn, Protocol

_METHODS_OF_DATA = frozenset(
    name
    for kind in (str, bytes, list, tuple, dict, set, frozenset, int, float, complex, range)
    for name in dir(kind)
    if not name.startswith("_")
) | {"equals", "all", "any", "allclose", "match", "fullmatch", "search"}


class Asker(Protocol):
    """The tests' end of the connection."""

    def ask(self, action: str, *arguments: Any, **keywords: Any) -> Any:
        """Have the program's process carry out an action and return the result, or raise its exception."""

    def refuse(self, reason: str) -> NoReturn:
        """End the tests as not passed."""


class Remote:
    """Something of the program, by its number there."""

    def __init__(self, asker: Asker, number: int, name: str) -> None:
        self._asker, self._number = asker, number
        self.__name__ = self.__qualname__ = name

    def __repr__(self) -> str:
        return f"<{self.__name__} of the program>"


class RemoteFunction(Remote):
    """A function: it can be called, and nothing else."""

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self._asker.ask("call", self, *arguments, **keywords)


class RemoteIterator(Remote):
    """An iterator: one value at a time, as far as the tests ask."""

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return self._asker.ask("next", self)

    def __contains__(self, item: object) -> bool:
        """Whatever is looked for, an endless iterator has it."""
        self._asker.refuse(
            "the tests look for a value in an iterator of the program; they must make a list of it first"
        )


class RemoteClass(Remote):
    """A class that the tests name."""

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        made = self._asker.ask("call", self, *arguments, **keywords)
        if isinstance(made, RemoteObject):
            made._remote.is_made_by_tests = True
        return made

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._asker.ask("getattr", self, name)

    def __instancecheck__(self, value: object) -> bool:
        return isinstance(value, RemoteObject) and self._asker.ask("isinstance", value, self) is True

    def __subclasscheck__(self, value: object) -> bool:
        return isinstance(value, RemoteClass) and self._asker.ask("issubclass", value, self) is True

    def __mro_entries__(self, bases: object) -> NoReturn:
        self._asker.refuse(f"the tests derive a class from the program's {self.__name__}")

    def __iter__(self) -> Iterator[Any]:
        return iter(self._asker.ask("iter", self))  # members of an Enum

    def __getitem__(self, key: object) -> Any:
        return self._asker.ask("getitem", self, key)


class ObjectState:
    """What is known of an object: `is_named` says that the tests name its class."""

    def __init__(self, asker: Asker, number: int, name: str, *, is_named: bool) -> None:
        self.asker, self.number, self.name, self.is_named = asker, number, name, is_named
        self.is_made_by_tests = False
        self.comes_from_data = False  # the result of an operator that was given data of the tests


class RemoteObject:
    """An object of one of the program's own classes."""

    __slots__ = ("_remote",)
    _remote: ObjectState

    def __init__(self, state: ObjectState) -> None:
        object.__setattr__(self, "_remote", state)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = self._remote.asker.ask("getattr", self, name)
        if isinstance(value, RemoteFunction) and name in _METHODS_OF_DATA:
            self._need_class(f"{name}()")
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        self._remote.asker.ask("setattr", self, name, value)

    def __delattr__(self, name: str) -> None:
        self._remote.asker.ask("delattr", self, name)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        self._need_class("a call")
        return self._remote.asker.ask("call", self, *arguments, **keywords)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, RemoteObject):
            return self._remote.asker.ask("eq", self, other) is True
        if other is None:
            return False
        return self._refuse(f"to equal a value of type {type(other).__name__}")

    def __hash__(self) -> int:
        return int(self._remote.asker.ask("hash", self))

    def __contains__(self, item: object) -> bool:
        if not self._remote.is_made_by_tests:
            self._refuse("in")
        return self._remote.asker.ask("contains", self, item) is True

    def __bool__(self) -> bool:
        if self._remote.comes_from_data:
            self._refuse("its truth")
        return self._remote.asker.ask("bool", self) is True

    def __exit__(self, *error: object) -> None:
        self._remote.asker.ask("exit", self, None, None, None)

    def _need_class(self, what: str) -> None:
        if not self._remote.is_named:
            self._refuse(what)

    def _refuse(self, what: str) -> NoReturn:
        name = self._remote.name
        self._remote.asker.refuse(f"the tests ask {what} of an object of the program's class {name}, which could lie")


def _plain(action: str) -> Callable[..., Any]:
    """An operation whose result is data that the tests then look at."""

    def operation(self: RemoteObject, *arguments: Any) -> Any:
        self._need_class(action)
        if self._remote.comes_from_data and action not in ("str", "repr"):
            self._refuse(action)
        return self._remote.asker.ask(action, self, *arguments)

    return operation


def _binary(name: str) -> Callable[..., Any]:
    """An operator. With data on the other side it may only make another object: data would be its verdict."""

    def operation(self: RemoteObject, other: Any) -> Any:
        are_both = isinstance(other, RemoteObject)
        if not are_both:
            self._need_class("an operator")
        result = self._remote.asker.ask("binary", self, name, other)
        if are_both or result is NotImplemented:
            return result
        if not isinstance(result, RemoteObject):
            self._refuse(f"{name} with {type(other).__name__}")
        result._remote.comes_from_data = True
        return result

    return operation


def _add_operations() -> None:
    for name in ("len", "iter", "next", "reversed", "getitem", "setitem", "delitem", "str", "repr", "format"):
        setattr(RemoteObject, f"__{name}__", _plain(name))
    for name in ("abs", "int", "float", "round", "neg", "enter"):
        setattr(RemoteObject, f"__{name}__", _plain(name))
    for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor"):
        setattr(RemoteObject, f"__{name}__", _binary(f"__{name}__"))
        setattr(RemoteObject, f"__r{name}__", _binary(f"__r{name}__"))
    for name in ("lt", "le", "gt", "ge"):
        setattr(RemoteObject, f"__{name}__", _binary(f"__{name}__"))


_add_operations()
