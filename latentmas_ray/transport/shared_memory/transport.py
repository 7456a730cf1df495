"""Through memory that the actors of one node share: one copy when a piece is packed, none when it is read."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from latentmas_ray.errors import TransferError
from latentmas_ray.memory import KVCacheSpec, SegmentChunk
from latentmas_ray.memory.wire import decode_piece, encode_piece, from_raw
from latentmas_ray.transport.base import Transport
from latentmas_ray.transport.capabilities import TRAITS, Capabilities
from latentmas_ray.transport.shared_memory.buffer_store import BufferStore
from latentmas_ray.transport.shared_memory.memfd import MemfdAddress, map_body

MAX_FREE_BYTES = 2**30
NOTHING = np.empty(0, np.uint8)


@dataclass(frozen=True)
class SharedHandle:
    """A piece's header, and where its KV lies; without KV there is no address."""

    header: bytes
    address: MemfdAddress | None


class SharedMemory(Transport):
    """A piece is written into a buffer of its producer's (see `memfd` for who may touch it when).

    A producer owns the bytes: they last until `release`, and until its death. A reader that has unpacked keeps them
    beyond both. They count as shared memory of the producer's node, outside Ray's object store. There is no digest of
    them, for they do not move and readers cannot write them.
    """

    name: ClassVar[str] = "shared_memory"
    traits: ClassVar[Capabilities] = TRAITS["shared_memory"]

    def __init__(self, max_free_bytes: int = MAX_FREE_BYTES) -> None:
        """Released buffers are kept for the next pieces up to so many bytes."""
        self._max_free_bytes = max_free_bytes
        self._shelf: BufferStore | None = None

    def open(self) -> None:
        self._shelf = BufferStore(is_shared=True, max_free_bytes=self._max_free_bytes)

    def reserve(self, num_bytes: int, device: torch.device) -> Tensor:
        """A shared buffer, if the memory lies on the CPU: what is packed from there is not copied again."""
        if device.type != "cpu" or num_bytes == 0 or self.codec != "none":
            return super().reserve(num_bytes, device)
        return self._opened().lend(num_bytes)

    def pack(self, piece: SegmentChunk) -> SharedHandle:
        """A handle to the piece's bytes, or to a copy if they are not in a buffer of `reserve`. Raises TransferError
        where there is no memory for it."""
        header, body = encode_piece(piece, codec=self.codec, with_digest=False)
        if body.numel() == 0:
            return SharedHandle(header, None)
        return SharedHandle(header, self._opened().put(body).address)

    def unpack(self, payload: SharedHandle, *, expected: KVCacheSpec) -> SegmentChunk:
        """A piece on the producer's own pages, read-only."""
        body = NOTHING if payload.address is None else map_body(payload.address)
        return decode_piece(payload.header, from_raw(body), expected=expected)

    def release(self, payload: SharedHandle) -> None:
        """The buffer is written again as soon as no reader has it mapped."""
        if payload.address is not None and self._shelf is not None:
            self._shelf.release(payload.address.token)

    def close(self) -> None:
        self._shelf = None

    def _opened(self) -> BufferStore:
        if self._shelf is None:
            raise TransferError("the shared memory of this process is closed")
        return self._shelf
