"""Loopback within one process: chunks are passed on unchanged. For the local runtime, agents of one actor, tests."""

import secrets
from dataclasses import dataclass
from typing import Any

from latentmas_ray.errors import TransferError
from latentmas_ray.memory import KVCacheSpec, SegmentChunk
from latentmas_ray.transport.base import StatefulTransport, Transport
from latentmas_ray.transport.capabilities import Capabilities
from latentmas_ray.transport.handle_table import HandleTable


class Loopback(Transport):
    """Moves no bytes."""

    name = "loopback"
    capabilities = Capabilities(links=frozenset({"same_process"}), one_sided=True, shares_node=True)

    def within_one_actor(self) -> "ActorLoopback":
        """A transport with handles: the actor's return value would copy the chunk itself."""
        return ActorLoopback()

    def pack(self, chunk: SegmentChunk) -> Any:
        """The chunk itself."""
        return chunk

    def unpack(self, payload: Any, *, expected: KVCacheSpec) -> SegmentChunk:
        """The chunk itself. Raises IncompatibleMemoryError for memory of another model."""
        chunk: SegmentChunk = payload
        expected.check_same(chunk.meta.spec)
        return chunk


@dataclass(frozen=True)
class LocalHandle:
    """The number of a chunk in the process that packed it, and an id of that process."""

    process: bytes
    number: int


@dataclass(frozen=True)
class _LocalState:
    chunks: HandleTable[SegmentChunk]
    process: bytes


class ActorLoopback(StatefulTransport[_LocalState], Loopback):
    """Loopback within one actor: chunks are stored until `release`, and payloads are handles."""

    def within_one_actor(self) -> "ActorLoopback":
        return self

    def _make_state(self) -> _LocalState:
        return _LocalState(HandleTable(), secrets.token_bytes(16))

    def pack(self, chunk: SegmentChunk) -> LocalHandle:
        """Store the chunk; return a handle."""
        return LocalHandle(self._open_state.process, self._open_state.chunks.add(chunk))

    def unpack(self, payload: LocalHandle, *, expected: KVCacheSpec) -> SegmentChunk:
        """Return the stored chunk. Raises TransferError if it was released or is in another process,
        IncompatibleMemoryError."""
        state = self._open_state
        if payload.process != state.process:
            raise TransferError("the segment is in another actor, and this transport does not leave an actor")
        chunk = state.chunks.get(payload.number)
        if chunk is None:
            raise TransferError("the segment is gone: it was released")
        return super().unpack(chunk, expected=expected)

    def release(self, payload: LocalHandle) -> None:
        """Drop the stored chunk, if it is still stored."""
        if self._state is not None and payload.process == self._state.process:
            self._state.chunks.drop(payload.number)
