"""Within one process: memory is handed over as it is. For the local runtime, agents of one actor, and tests."""

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

    def within_one_actor(self) -> "Resident":
        """The piece itself would leave the process with the actor's return value."""
        return Resident()

    def pack(self, piece: SegmentChunk) -> Any:
        """The piece itself."""
        return piece

    def unpack(self, payload: Any, *, expected: KVCacheSpec) -> SegmentChunk:
        """The piece itself. Raises IncompatibleMemoryError for memory of another model."""
        piece: SegmentChunk = payload
        expected.check_same(piece.meta.spec)
        return piece


@dataclass(frozen=True)
class ResidentHandle:
    """The number of a piece in the process that packed it, and what tells that process from others, where the same
    number is another piece's."""

    process: bytes
    number: int


@dataclass(frozen=True)
class _Held:
    pieces: HandleTable[SegmentChunk]
    process: bytes


class Resident(StatefulTransport[_Held], Loopback):
    """Within one actor: pieces stay where they are, until `release`, and handles travel."""

    def within_one_actor(self) -> "Resident":
        return self

    def _make_state(self) -> _Held:
        return _Held(HandleTable(), secrets.token_bytes(16))

    def pack(self, piece: SegmentChunk) -> ResidentHandle:
        """A handle; the piece is kept."""
        return ResidentHandle(self._opened.process, self._opened.pieces.add(piece))

    def unpack(self, payload: ResidentHandle, *, expected: KVCacheSpec) -> SegmentChunk:
        """The piece that was packed. Raises TransferError for one that was released or is in another process,
        IncompatibleMemoryError."""
        held = self._opened
        if payload.process != held.process:
            raise TransferError("the segment is in another actor, which keeps it to itself")
        piece = held.pieces.get(payload.number)
        if piece is None:
            raise TransferError("the segment is gone: it was released")
        return super().unpack(piece, expected=expected)

    def release(self, payload: ResidentHandle) -> None:
        """Nothing happens if it is gone."""
        if self._state is not None and payload.process == self._state.process:
            self._state.pieces.drop(payload.number)
