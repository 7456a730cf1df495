"""Memory from earlier runs that turns read: put into the object store once, however many turns read it."""

from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import ray

from latentmas_ray.engine.turn import GivenMemory, TurnRequest


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredMemory(GivenMemory):
    """A placeholder for memory whose segments are in the object store."""

    reference: ray.ObjectRef


class GivenMemoryStore:
    """The given memories that this process has put into the object store, each for as long as it is in use here."""

    def __init__(self) -> None:
        self._references: WeakKeyDictionary[GivenMemory, ray.ObjectRef] = WeakKeyDictionary()

    def store(self, work: TurnRequest) -> TurnRequest:
        """Return `work` with its given memory replaced by a reference."""
        given = work.given
        if given is None:
            return work
        if given not in self._references:
            self._references[given] = ray.put(given)
        reference = self._references[given]
        return replace(work, given=StoredMemory(reads=given.reads, segments={}, reference=reference))


def fetch_given_memory(work: TurnRequest) -> TurnRequest:
    """Return `work` with the bytes of its given memory; called in the process that executes the turn."""
    if isinstance(work.given, StoredMemory):
        return replace(work, given=ray.get(work.given.reference))
    return work
