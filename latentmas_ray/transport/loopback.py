"""Within one process: memory is handed over as it is. For the local runtime, agents of one actor, and tests."""

import secrets
from dataclasses import dataclass
from typing import Any, ClassVar

from latentmas_ray.errors import TransferError
from latentmas_ray.memory import KVCacheSpec, SegmentChunk
from latentmas_ray.transport.base import Transport
from latentmas_ray.transport.capabilities import TRAITS, Capabilities
from latentmas_ray.transport.handle_table import HandleTable


class Loopback(Transport):
    """Moves no bytes."""

    name: ClassVar[str] = "loopback"
    traits: ClassVar[Capabilities] = TRAITS["loopback"]

    def within_one_actor(self) -> "Resident":
        """The piece itself would leave the process with the actor's return value."""
        return Resident()

    def pack(self, piece: SegmentChunk) -> Any:
        """The piece itself."""
        return piece

    def unpack(self, payload: Any, *, expected: KVCacheSpec) -> SegmentChunk:
        """The piece itself. Raises IncompatibleMemoryError for memory of another model."""
        piece: SegmentChunk = payload
        expected.check_same(piece.outline.spec)
        return piece


@dataclass(frozen=True)
class ResidentHandle:
    """The number of a piece in the process that packed it, and what tells that process from others, where the same
    number is another piece's."""

    process: bytes
    number: int


class Resident(Loopback):
    """Within one actor: pieces stay where they are, until `release`, and handles travel."""

    def __init__(self) -> None:
        self._kept: HandleTable[SegmentChunk] | None = None
        self._process = b""

    def within_one_actor(self) -> "Resident":
        return self

    def open(self) -> None:
        self._kept, self._process = HandleTable(), secrets.token_bytes(16)

    def pack(self, piece: SegmentChunk) -> ResidentHandle:
        """A handle; the piece is kept."""
        assert self._kept is not None, "open() comes first"
        return ResidentHandle(self._process, self._kept.add(piece))

    def unpack(self, payload: ResidentHandle, *, expected: KVCacheSpec) -> SegmentChunk:
        """The piece that was packed. Raises TransferError for one that was released or is in another process,
        IncompatibleMemoryError."""
        if payload.process != self._process:
            raise TransferError("the segment is in another actor, which keeps it to itself")
        piece = None if self._kept is None else self._kept.get(payload.number)
        if piece is None:
            raise TransferError("the segment is gone: it was released")
        return super().unpack(piece, expected=expected)

    def release(self, payload: ResidentHandle) -> None:
        """Nothing happens if it is gone."""
        if self._kept is not None and payload.process == self._process:
            self._kept.drop(payload.number)

    def close(self) -> None:
        self._kept = None
