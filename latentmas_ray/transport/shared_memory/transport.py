"""Transport through memory shared by the actors of one node: one copy when a chunk is packed, none when it is read."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from latentmas_ray.authentication import ChunkId
from latentmas_ray.memory import KVCacheSpec, SegmentChunk
from latentmas_ray.memory.wire import decode_chunk, decode_inputs, encode_chunk, from_raw
from latentmas_ray.transport.base import StatefulTransport
from latentmas_ray.transport.capabilities import Capabilities
from latentmas_ray.transport.handles import SignedHandle, check_handle, sign_handle
from latentmas_ray.transport.shared_memory.buffer_store import BufferStore
from latentmas_ray.transport.shared_memory.memfd import MemfdAddress, map_body

MAX_FREE_BYTES = 2**30
NOTHING = np.empty(0, np.uint8)


@dataclass(frozen=True)
class SharedHandle(SignedHandle):
    """A chunk's header and the address of its KV; None without KV."""

    header: bytes
    address: MemfdAddress | None


class SharedMemory(StatefulTransport[BufferStore]):
    """Writes a chunk into a shared buffer of its producer (see `memfd` for the access rules).

    The producer owns the bytes: they exist until `release` or its death. A reader that has unpacked them keeps them
    beyond both. They count as shared memory of the producer's node, outside Ray's object store. Header and address are
    authenticated; the bytes have no tags, because they do not move, and the system lets only the producer write them.
    """

    name = "shared_memory"
    capabilities = Capabilities(
        links=frozenset({"same_gpu", "same_node"}), one_sided=True, shares_node=True, needs="memfd"
    )

    def __init__(self, max_free_bytes: int = MAX_FREE_BYTES) -> None:
        """Released buffers of up to `max_free_bytes` in total are kept for reuse."""
        self._max_free_bytes = max_free_bytes

    def _make_state(self) -> BufferStore:
        return BufferStore(is_shared=True, max_free_bytes=self._max_free_bytes)

    def reserve(self, num_bytes: int, device: torch.device) -> Tensor:
        """Return a shared buffer for memory on the CPU: `pack` does not copy it again."""
        if device.type != "cpu" or num_bytes == 0 or self.codec != "none":
            return super().reserve(num_bytes, device)
        return self._open_state.reserve(num_bytes)

    def pack(self, chunk: SegmentChunk, chunk_id: ChunkId | None = None) -> SharedHandle:
        """Return a handle to the chunk's bytes, or to a copy if they are not in a buffer of `reserve`. Raises
        TransferError if there is no memory."""
        header, body = encode_chunk(
            chunk, codec=self.codec, with_digest=False, authenticator=self.authenticator, chunk_id=chunk_id
        )
        address = self._open_state.put(body).address if body.numel() else None
        return sign_handle(SharedHandle(header, address), self.authenticator)

    def unpack(self, payload: SharedHandle, *, expected: KVCacheSpec, chunk_id: ChunkId | None = None) -> SegmentChunk:
        """Return a chunk on the producer's pages, read-only."""
        check_handle(payload, SharedHandle, self.authenticator)
        body = NOTHING if payload.address is None else map_body(payload.address)
        return decode_chunk(
            payload.header,
            from_raw(body),
            expected=expected,
            checks_digest=False,
            authenticator=self.authenticator,
            chunk_id=chunk_id,
        )

    def unpack_inputs(self, payload: SharedHandle, *, chunk_id: ChunkId | None = None) -> SegmentChunk:
        check_handle(payload, SharedHandle, self.authenticator)
        return decode_inputs(payload.header, authenticator=self.authenticator, chunk_id=chunk_id)

    def release(self, payload: SharedHandle) -> None:
        """Release the buffer; it is reused once no reader maps it."""
        if payload.address is not None and self._state is not None:
            self._state.release(payload.address.token)
