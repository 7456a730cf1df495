"""What computes the turns of simulated replicas."""

from collections.abc import Hashable
from math import ulp
from typing import Generic, TypeVar

_LEAST = 1e-9  # seconds of work that count as none
Work = TypeVar("Work", bound=Hashable)


class Device(Generic[Work]):
    """The GPUs of a replica, or the cores of its actor. Actors on one GPU that have a turn share its time equally, as
    processes on a GPU do that take turns of milliseconds."""

    def __init__(self) -> None:
        self.num_changes = 0  # the end that was expected before a change is not that after it
        self._left: dict[Work, float] = {}  # by piece of work: its seconds of the whole device's time
        self._updated_at = 0.0

    def start(self, work: Work, seconds: float, now: float) -> None:
        """Begin work that takes so many seconds of the whole device."""
        self._advance(now)
        self._left[work] = seconds
        self.num_changes += 1

    @property
    def next_end(self) -> float | None:
        """When the first work ends if no other begins; None if there is none."""
        return self._updated_at + min(self._left.values()) * len(self._left) if self._left else None

    def take_ended(self, now: float) -> list[Work]:
        """Remove and return the work that has ended."""
        self._advance(now)
        least = max(_LEAST, ulp(now))  # what no clock of this size can tell from none: the end would never come
        ended = [work for work, left in self._left.items() if left <= least]
        for work in ended:
            del self._left[work]
        self.num_changes += 1
        return ended

    def _advance(self, now: float) -> None:
        part = (now - self._updated_at) / max(1, len(self._left))
        self._left = {work: left - part for work, left in self._left.items()}
        self._updated_at = now
