"""What a call changed in its arguments: taken before the call, reported after it, made again on the tests' side.

The program gets copies, so what it does to a list reaches the tests' list only by being reported. Containers are named
by their number in the message that brought them (`wire.py`).
"""

import collections
from typing import Any

from latentmas_ray.sandbox.exchange.wire import Structure, ValueReader, ValueWriter, numpy_module

_LISTS = (list, collections.deque)
_MAPS = (dict, collections.Counter, collections.OrderedDict, collections.defaultdict)
Snapshot = Any


def snapshot(objects: list[Any]) -> list[Snapshot]:
    """Return what is needed to see later whether these containers have changed."""
    return [_contents(value) for value in objects]


def write_changes(objects: list[Any], before: list[Snapshot], writer: ValueWriter) -> list[Structure]:
    """Return the number and the new contents of each container that has changed. `writer` knows `objects`. Raises
    ExchangeError if something in them has no form."""
    changes: list[Structure] = []
    for number, (value, old) in enumerate(zip(objects, before, strict=True)):
        if old is None or _is_same(_contents(value), old):
            continue
        changes.append([number, writer.rewrite(number)])
    return changes


def read_changes(changes: list[Structure], objects: list[Any], reader: ValueReader) -> list[tuple[Any, Any]]:
    """Return the containers that have changed, each with one that has the new contents. `reader` knows `objects`.
    Raises ExchangeError."""
    return [(objects[number], reader.read(structure)) for number, structure in changes]


def assign(target: Any, new: Any) -> None:
    """Give a container the contents of another one of its type."""
    if isinstance(target, dict):
        items = list(new.items())
        target.clear()
        target.update(items) if not isinstance(target, collections.Counter) else dict.update(target, items)
    elif isinstance(target, set):
        items = list(new)
        target.clear()
        target.update(items)
    elif isinstance(target, collections.deque):
        items = list(new)
        target.clear()
        target.extend(items)
    elif isinstance(target, list | bytearray):
        target[:] = new
    elif (numpy := numpy_module()) is not None and isinstance(target, numpy.ndarray):
        target[...] = new
    else:
        state = state_of(new)
        for name in [name for name in state_of(target) if name not in state]:
            object.__delattr__(target, name)
        for name, value in state.items():
            object.__setattr__(target, name, value)


def state_of(value: Any) -> dict[str, Any]:
    """Return the attributes of an object, also those in slots."""
    slots = (name for kind in type(value).__mro__ for name in _slots(kind) if hasattr(value, name))
    return {**{name: getattr(value, name) for name in slots}, **getattr(value, "__dict__", {})}


def _slots(kind: type) -> tuple[str, ...]:
    slots: Any = vars(kind).get("__slots__", ())
    return tuple(name for name in ([slots] if isinstance(slots, str) else slots) if not name.startswith("__"))


def _contents(value: Any) -> Snapshot:
    """Return the contents of a container that can change; None for one that cannot."""
    kind = type(value)
    if kind in _LISTS:
        return list(value)
    if kind in _MAPS:
        return [*value.keys(), *value.values()]
    if kind is set:
        return frozenset(value)
    if kind is bytearray:
        return bytes(value)
    numpy = numpy_module()
    if numpy is not None and kind is numpy.ndarray:
        return value.tobytes() if value.dtype.kind != "O" else list(value.ravel())
    state = state_of(value)
    return [*state.keys(), *state.values()] if state else None


def _is_same(new: Snapshot, old: Snapshot) -> bool:
    if isinstance(new, list):
        return len(new) == len(old) and all(a is b for a, b in zip(new, old, strict=True))
    return bool(new == old)
