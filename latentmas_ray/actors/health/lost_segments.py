"""What an actor does not wait for: segments that the driver has given up."""

import threading
from collections.abc import Iterable
from typing import Any

import ray

from latentmas_ray.errors import TransferError

_LOOK_SECONDS = 0.5  # between two looks while a segment is waited for
_NUM_REMEMBERED = 10_000


class LostSegments:
    """The names of lost segments. Without it a reader waits until Ray declares the node dead that would send them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: dict[str, None] = {}  # the oldest first

    def add(self, segment_ids: Iterable[str]) -> None:
        """Wait for these no longer. Any thread may call this."""
        with self._lock:
            self._names.update(dict.fromkeys(segment_ids))
            for name in list(self._names)[: max(0, len(self._names) - _NUM_REMEMBERED)]:
                del self._names[name]

    def check(self, segment_id: str | None) -> None:
        """Raise TransferError if the segment is lost."""
        with self._lock:
            is_lost = segment_id in self._names
        if is_lost:
            raise TransferError("the segment was lost with its node")

    def wait_for(self, reference: ray.ObjectRef, segment_id: str | None) -> Any:
        """Return a chunk of a segment once it is there. Raises TransferError if the segment is lost before, and Ray's
        errors."""
        while not ray.wait([reference], timeout=_LOOK_SECONDS)[0]:
            self.check(segment_id)
        return ray.get(reference)
