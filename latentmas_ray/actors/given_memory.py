"""Memory from earlier runs that turns read: put into the object store once, however many turns read it."""

import secrets
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import ray

from latentmas_ray.authentication import Authenticator, RunKey
from latentmas_ray.engine.turn import GivenMemory, TurnRequest
from latentmas_ray.memory.wire import add_tags, from_raw


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredMemory(GivenMemory):
    """A placeholder for memory whose segments are in the object store."""

    reference: ray.ObjectRef


class GivenMemoryStore:
    """The given memories that this process has put into the object store, each for as long as it is in use here."""

    def __init__(self, key: RunKey) -> None:
        """`key` is the one of the actors that read them."""
        self._authenticator = Authenticator(key)
        self._references: WeakKeyDictionary[GivenMemory, tuple[str, ray.ObjectRef]] = WeakKeyDictionary()

    def store(self, work: TurnRequest) -> TurnRequest:
        """Return `work` with its given memory replaced by a reference."""
        given = work.given
        if given is None:
            return work
        if given not in self._references:
            signed = self._sign(given)
            self._references[given] = signed.segment_id, ray.put(signed)
        segment_id, reference = self._references[given]
        stored = StoredMemory(reads=given.reads, segments={}, segment_id=segment_id, reference=reference)
        return replace(work, given=stored)

    def _sign(self, given: GivenMemory) -> GivenMemory:
        named = replace(given, segment_id=secrets.token_hex(8))
        segments = {
            agent: (add_tags(header, from_raw(body), self._authenticator, named.chunk_id(agent)), body)
            for agent, (header, body) in given.segments.items()
        }
        return replace(named, segments=segments)


def fetch_given_memory(work: TurnRequest) -> TurnRequest:
    """Return `work` with the bytes of its given memory; called in the process that executes the turn."""
    if isinstance(work.given, StoredMemory):
        fetched: GivenMemory = ray.get(work.given.reference)
        return replace(work, given=replace(fetched, segment_id=work.given.segment_id))
    return work
