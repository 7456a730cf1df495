"""Transports through torch.distributed: gloo between CPUs, NCCL between GPUs. The same code for both.

Each pair of reader and producer creates a process group of two. A process that dies fails only its own
transfers; a single group of all actors would fail with it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from latentmas_ray.authentication import ChunkId, RunKey
from latentmas_ray.env import disable_nccl_abort
from latentmas_ray.errors import TransferError
from latentmas_ray.memory import KVCacheSpec, SegmentChunk
from latentmas_ray.memory.wire import decode_inputs
from latentmas_ray.parallel.process_group import PAIRS
from latentmas_ray.transport.base import StatefulTransport
from latentmas_ray.transport.capabilities import BETWEEN_ACTORS, Capabilities
from latentmas_ray.transport.connection_pool import ConnectionPool
from latentmas_ray.transport.gpu.checksum import decode_with_checksum, encode_with_checksum
from latentmas_ray.transport.gpu.connection import GroupConnection, GroupServer
from latentmas_ray.transport.handle_table import HandleTable
from latentmas_ray.transport.handles import SignedHandle, check_handle, sign_handle
from latentmas_ray.transport.listener import ServerAddress, own_host


@dataclass(frozen=True)
class DirectHandle(SignedHandle):
    """A chunk's header, and the producer and number of its KV. `checksum` is None if the header has the tags of
    the bytes."""

    header: bytes
    num_bytes: int
    checksum: bytes | None
    address: ServerAddress
    number: int


class _GroupState:
    """The state of an open transport; it has locks and threads and cannot be pickled."""

    def __init__(self, kind: str, timeout_seconds: float, key: RunKey) -> None:
        host = own_host()
        self.bodies: HandleTable[Tensor] = HandleTable()
        self.server = GroupServer(kind, host, self.bodies, timeout_seconds, key)
        self.connections = ConnectionPool(lambda address: GroupConnection(kind, address, host, timeout_seconds, key))


class Direct(StatefulTransport[_GroupState]):
    """Holds the bytes at the producer until `release`; threads of the producer send them to readers.

    `unpack` waits at most `timeout_seconds` for each step (a connection, 64 MiB) and raises TransferError if a producer
    is gone, stalls, or has released the chunk. A broken connection that was in use before is made once more.
    """

    def __init__(self, timeout_seconds: float = 30.0) -> None:
        self._timeout_seconds = timeout_seconds

    def _make_state(self) -> _GroupState:
        return _GroupState(self.name, self._timeout_seconds, self.authenticator.key)

    def pack(self, chunk: SegmentChunk, chunk_id: ChunkId | None = None) -> DirectHandle:
        """Return a handle; copies bytes only from other devices than this transport's."""
        state = self._open_state
        header, body, checksum = encode_with_checksum(
            chunk, PAIRS[self.name].device, self.codec, self.authenticator, chunk_id
        )
        number = state.bodies.add(body)
        handle = DirectHandle(header, body.numel(), checksum, state.server.address, number)
        return sign_handle(handle, self.authenticator)

    def unpack(self, payload: DirectHandle, *, expected: KVCacheSpec, chunk_id: ChunkId | None = None) -> SegmentChunk:
        """Return a chunk in new memory (within one process, in the producer's)."""
        check_handle(payload, DirectHandle, self.authenticator)
        state = self._open_state
        if payload.address == state.server.address:
            if (body := state.bodies.get(payload.number)) is None:
                raise TransferError("the segment is gone: it was released")
        elif payload.num_bytes == 0:
            body = torch.empty(0, dtype=torch.uint8, device=PAIRS[self.name].device)
        else:
            body = state.connections.use(payload.address, lambda one: one.fetch(payload.number, payload.num_bytes))
        return decode_with_checksum(
            payload.header, body, payload.checksum, self.authenticator, expected=expected, chunk_id=chunk_id
        )

    def unpack_inputs(self, payload: DirectHandle, *, chunk_id: ChunkId | None = None) -> SegmentChunk:
        check_handle(payload, DirectHandle, self.authenticator)
        return decode_inputs(payload.header, authenticator=self.authenticator, chunk_id=chunk_id)

    def release(self, payload: DirectHandle) -> None:
        """Release the bytes. A transfer that has started completes; no other can start."""
        if self._state is not None and payload.address == self._state.server.address:
            self._state.bodies.drop(payload.number)

    def _end_state(self, state: _GroupState) -> None:
        state.server.close()
        state.connections.close()


class Gloo(Direct):
    """Transport between CPUs: memory of a GPU is copied to the CPU and arrives there."""

    name = "gloo"
    capabilities = Capabilities(links=BETWEEN_ACTORS, needs="gloo")


class Nccl(Direct):
    """Transport between GPUs. The actor's GPU must be the current one when it is state."""

    name = "nccl"
    # Two NCCL ranks cannot share a GPU.
    capabilities = Capabilities(devices=frozenset({"cuda"}), links=frozenset({"same_node", "cross_node"}), needs="nccl")

    def _make_state(self) -> _GroupState:
        disable_nccl_abort()
        return super()._make_state()
