"""What a process has packed and not released yet."""

import threading
from itertools import count
from typing import Generic, TypeVar

T = TypeVar("T")


class HandleTable(Generic[T]):
    """Things by number; safe to use from several threads. A number is never given twice."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._things: dict[int, T] = {}
        self._numbers = count(1)

    def add(self, thing: T) -> int:
        """Keep a thing. Returns its number."""
        with self._lock:
            number = next(self._numbers)
            self._things[number] = thing
            return number

    def get(self, number: int) -> T | None:
        """None for what is not kept (any more)."""
        with self._lock:
            return self._things.get(number)

    def drop(self, number: int) -> T | None:
        """Keep it no longer. Safe to call twice."""
        with self._lock:
            return self._things.pop(number, None)

    def __len__(self) -> int:
        return len(self._things)
