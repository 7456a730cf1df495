"""From process to process through torch.distributed: gloo between CPUs, NCCL between GPUs. The same code for both.

Each reader and producer that have to do with each other make a group of two, once (`pair_link`). So a process
that dies costs its own transfers and nobody else's, which one group of all actors, or Ray's, would not survive.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from latentmas_ray.env import disable_nccl_abort
from latentmas_ray.errors import TransferError
from latentmas_ray.memory import KVCacheSpec, SegmentChunk
from latentmas_ray.parallel.process_group import PAIRS
from latentmas_ray.transport.base import StatefulTransport
from latentmas_ray.transport.capabilities import BETWEEN_ACTORS, Capabilities
from latentmas_ray.transport.connection_pool import ConnectionPool
from latentmas_ray.transport.gpu.checksum import decode_with_checksum, encode_with_checksum
from latentmas_ray.transport.gpu.connection import GroupConnection, GroupServer
from latentmas_ray.transport.handle_table import HandleTable
from latentmas_ray.transport.listener import ServerAddress, own_host


@dataclass(frozen=True)
class DirectHandle:
    """A chunk's header, and who sends its KV. `checksum` is there where the header has no digest."""

    header: bytes
    num_bytes: int
    checksum: int | None
    address: ServerAddress
    number: int


class _GroupState:
    """What a transport has while it is open: locks and threads, none of which can be pickled."""

    def __init__(self, kind: str, timeout_seconds: float) -> None:
        host = own_host()
        self.kept: HandleTable[Tensor] = HandleTable()
        self.server = GroupServer(kind, host, self.kept, timeout_seconds)
        self.connections = ConnectionPool(lambda address: GroupConnection(kind, address, host, timeout_seconds))


class Direct(StatefulTransport[_GroupState]):
    """A producer keeps the bytes where they are until `release` and sends them to whoever asks, beside its work.

    `unpack` waits at most `timeout_seconds` for each step (a connection, 64 MiB) and raises TransferError if a producer
    is gone, stalls, or has released the chunk. A connection that was in use before and breaks is made once more.
    """

    def __init__(self, timeout_seconds: float = 30.0) -> None:
        self._timeout_seconds = timeout_seconds

    def _make_state(self) -> _GroupState:
        return _GroupState(self.name, self._timeout_seconds)

    def pack(self, chunk: SegmentChunk) -> DirectHandle:
        """A handle; copies only what does not lie on this transport's device."""
        opened = self._opened
        header, body, checksum = encode_with_checksum(chunk, PAIRS[self.name].device, self.codec)
        return DirectHandle(header, body.numel(), checksum, opened.server.address, opened.kept.add(body))

    def unpack(self, payload: DirectHandle, *, expected: KVCacheSpec) -> SegmentChunk:
        """A chunk in memory of its own (the producer's, within one process)."""
        opened = self._opened
        if payload.address == opened.server.address:
            if (body := opened.kept.get(payload.number)) is None:
                raise TransferError("the segment is gone: it was released")
        elif payload.num_bytes == 0:
            body = torch.empty(0, dtype=torch.uint8, device=PAIRS[self.name].device)
        else:
            body = opened.connections.use(payload.address, lambda one: one.fetch(payload.number, payload.num_bytes))
        return decode_with_checksum(payload.header, body, payload.checksum, expected=expected)

    def release(self, payload: DirectHandle) -> None:
        """A transfer that has begun goes on to its end; nobody can begin another."""
        if self._state is not None and payload.address == self._state.server.address:
            self._state.kept.drop(payload.number)

    def _end_state(self, state: _GroupState) -> None:
        state.server.close()
        state.connections.close()


class Gloo(Direct):
    """Between CPUs: memory of a GPU is copied to the CPU and arrives there."""

    name = "gloo"
    capabilities = Capabilities(links=BETWEEN_ACTORS, needs="gloo")


class Nccl(Direct):
    """Between GPUs, without the CPU. Opened where the actor's GPU is the current one."""

    name = "nccl"
    # Two ranks of NCCL cannot be on one GPU.
    capabilities = Capabilities(devices=frozenset({"cuda"}), links=frozenset({"same_node", "cross_node"}), needs="nccl")

    def _make_state(self) -> _GroupState:
        disable_nccl_abort()
        return super()._make_state()
