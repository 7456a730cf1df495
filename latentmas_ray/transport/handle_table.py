"""A table of the objects that a process has packed and not yet released."""

import threading
from itertools import count
from typing import Generic, TypeVar

T = TypeVar("T")


class HandleTable(Generic[T]):
    """Thread-safe table from integer handles to objects; handles are never reused."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[int, T] = {}
        self._handles = count(1)

    def add(self, value: T) -> int:
        """Store a value; return its handle."""
        with self._lock:
            handle = next(self._handles)
            self._values[handle] = value
            return handle

    def get(self, handle: int) -> T | None:
        """The value of a handle; None if it was dropped."""
        with self._lock:
            return self._values.get(handle)

    def drop(self, handle: int) -> T | None:
        """Remove and return the value of a handle. Safe to call twice."""
        with self._lock:
            return self._values.pop(handle, None)

    def __len__(self) -> int:
        return len(self._values)
