"""Memory that is given to turns, in the object store: it is put there once, however many turns read it."""

from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import ray

from latentmas_ray.engine.turn import GivenMemory, TurnRequest


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredMemory(GivenMemory):
    """Stands for memory whose segments are in the object store."""

    reference: ray.ObjectRef


class GivenMemoryStore:
    """What this process has put into the store. It stays there as long as the memory is in use here."""

    def __init__(self) -> None:
        self._references: WeakKeyDictionary[GivenMemory, ray.ObjectRef] = WeakKeyDictionary()

    def store(self, work: TurnRequest) -> TurnRequest:
        """The same work without the bytes of what it is given."""
        given = work.given
        if given is None:
            return work
        if given not in self._references:
            self._references[given] = ray.put(given)
        reference = self._references[given]
        return replace(work, given=StoredMemory(reads=given.reads, segments={}, reference=reference))


def fetch(work: TurnRequest) -> TurnRequest:
    """The work with the bytes of what it is given, in the process that carries it out."""
    if isinstance(work.given, StoredMemory):
        return replace(work, given=ray.get(work.given.reference))
    return work
