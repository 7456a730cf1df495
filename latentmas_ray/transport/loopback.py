"""Loopback within one process: chunks are passed on unchanged. For the local runtime, agents of one actor, tests."""

import secrets
from dataclasses import dataclass
from typing import Any

from latentmas_ray.authentication import ChunkId
from latentmas_ray.errors import TransferError
from latentmas_ray.memory import KVCacheSpec, SegmentChunk
from latentmas_ray.memory.wire import check_chunk_id
from latentmas_ray.transport.base import StatefulTransport, Transport
from latentmas_ray.transport.capabilities import Capabilities
from latentmas_ray.transport.handle_table import HandleTable
from latentmas_ray.transport.handles import SignedHandle, check_handle, sign_handle


class Loopback(Transport):
    """Moves no bytes."""

    name = "loopback"
    capabilities = Capabilities(links=frozenset({"same_process"}), one_sided=True, shares_node=True)

    def within_one_actor(self) -> "ActorLoopback":
        """A transport with handles: the actor's return value would copy the chunk itself."""
        return ActorLoopback()

    def pack(self, chunk: SegmentChunk, chunk_id: ChunkId | None = None) -> Any:
        """The chunk itself."""
        return chunk

    def unpack(self, payload: Any, *, expected: KVCacheSpec, chunk_id: ChunkId | None = None) -> SegmentChunk:
        """The chunk itself. Raises IncompatibleMemoryError for memory of another model."""
        chunk: SegmentChunk = payload
        expected.check_same(chunk.meta.spec)
        return chunk

    def unpack_inputs(self, payload: Any, *, chunk_id: ChunkId | None = None) -> SegmentChunk:
        return SegmentChunk.without_kv(payload.meta, payload.recompute_inputs)


@dataclass(frozen=True)
class LocalHandle(SignedHandle):
    """The number of a chunk in the process that packed it, an id of that process, and the tag of both."""

    process: bytes
    number: int


@dataclass(frozen=True)
class _LocalState:
    chunks: HandleTable[tuple[ChunkId, SegmentChunk]]
    process: bytes


class ActorLoopback(StatefulTransport[_LocalState], Loopback):
    """Loopback within one actor: chunks are stored until `release`, and payloads are handles."""

    def within_one_actor(self) -> "ActorLoopback":
        return self

    def _make_state(self) -> _LocalState:
        return _LocalState(HandleTable(), secrets.token_bytes(16))

    def pack(self, chunk: SegmentChunk, chunk_id: ChunkId | None = None) -> LocalHandle:
        """Store the chunk; return a handle."""
        number = self._open_state.chunks.add((chunk_id or ChunkId(), chunk))
        return sign_handle(LocalHandle(self._open_state.process, number), self.authenticator)

    def unpack(self, payload: LocalHandle, *, expected: KVCacheSpec, chunk_id: ChunkId | None = None) -> SegmentChunk:
        """Return the stored chunk. Raises TransferError if it was released or is in another process, WireError,
        IncompatibleMemoryError."""
        return super().unpack(self._stored(payload, chunk_id), expected=expected)

    def unpack_inputs(self, payload: LocalHandle, *, chunk_id: ChunkId | None = None) -> SegmentChunk:
        return super().unpack_inputs(self._stored(payload, chunk_id))

    def _stored(self, payload: LocalHandle, chunk_id: ChunkId | None) -> SegmentChunk:
        state = self._open_state
        check_handle(payload, LocalHandle, self.authenticator)
        if payload.process != state.process:
            raise TransferError("the segment is in another actor, and this transport does not leave an actor")
        stored = state.chunks.get(payload.number)
        if stored is None:
            raise TransferError("the segment is gone: it was released")
        check_chunk_id(stored[0], chunk_id)
        return stored[1]

    def release(self, payload: LocalHandle) -> None:
        """Drop the stored chunk, if it is still stored."""
        if self._state is not None and payload.process == self._state.process:
            self._state.chunks.drop(payload.number)
