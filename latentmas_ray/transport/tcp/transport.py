"""Over plain TCP between nodes, and through shared memory within each: what nodes without RDMA do best."""

import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from latentmas_ray.errors import TransferError
from latentmas_ray.memory import KVCacheSpec, SegmentChunk
from latentmas_ray.memory.wire import decode_chunk, encode_chunk, from_raw
from latentmas_ray.transport.available import find_available
from latentmas_ray.transport.base import StatefulTransport
from latentmas_ray.transport.capabilities import BETWEEN_ACTORS, Capabilities
from latentmas_ray.transport.connection_pool import ConnectionPool
from latentmas_ray.transport.listener import ServerAddress, own_host
from latentmas_ray.transport.shared_memory.buffer_store import BufferKey, BufferStore
from latentmas_ray.transport.shared_memory.memfd import map_body, this_machine
from latentmas_ray.transport.shared_memory.transport import MAX_FREE_BYTES, NOTHING
from latentmas_ray.transport.tcp.streams import StreamConnection, StreamServer

_NUM_REMEMBERED = 10_000  # of what was released


@dataclass(frozen=True)
class TcpHandle:
    """A chunk's header, and who has its KV; without KV there is no key."""

    header: bytes
    num_bytes: int
    producer: ServerAddress
    key: BufferKey | None


class _TcpState:
    """What a transport has while it is open: locks and threads, none of which can be pickled."""

    def __init__(self, timeout_seconds: float, *, is_shared: bool) -> None:
        self.store = BufferStore(is_shared=is_shared, max_free_bytes=MAX_FREE_BYTES)
        self.server = StreamServer(own_host(), self.store, timeout_seconds)
        self.connections = ConnectionPool(lambda address: StreamConnection(address, timeout_seconds))
        self._lock = threading.Lock()
        self._copies: dict[bytes, bytes] = {}  # by the producer's token: the token of what was brought here
        self._released: deque[bytes] = deque(maxlen=_NUM_REMEMBERED)

    def add_copy(self, token: bytes, own: bytes) -> bool:
        """Keep `own` until `token` is released; False if that has happened."""
        with self._lock:
            if token not in self._released:
                self._copies[token] = own
                return True
        self.store.release(own)
        return False

    def drop_copy(self, token: bytes) -> None:
        """Nobody here will read what the producer has under this token."""
        with self._lock:
            self._released.append(token)  # it may be on its way here
            copy = self._copies.pop(token, None)
        if copy is not None:
            self.store.release(copy)


class Tcp(StatefulTransport[_TcpState]):
    """A producer keeps the bytes until `release`. Readers on its machine map them; the first reader on another machine
    fetches them and keeps them there for the others until its own `release`.

    `unpack` waits at most `timeout_seconds` for each step (a connection, 64 MiB) and raises TransferError if a producer
    is gone, stalls, or has released the chunk. A connection that was in use before and breaks is made once more.
    """

    name = "tcp"
    capabilities = Capabilities(links=BETWEEN_ACTORS, shares_node=True, readers_keep=True)

    def __init__(self, timeout_seconds: float = 30.0, *, shares_memory: bool = True) -> None:
        """Without `shares_memory` all goes over TCP, within a machine, too."""
        self._timeout_seconds = timeout_seconds
        self._shares_memory = shares_memory

    def _make_state(self) -> _TcpState:
        is_shared = self._shares_memory and "memfd" in find_available()
        return _TcpState(self._timeout_seconds, is_shared=is_shared)

    def reserve(self, num_bytes: int, device: torch.device) -> Tensor:
        """Memory that readers can have without another copy, if the chunk's lies on the CPU."""
        if device.type != "cpu" or num_bytes == 0 or self.codec != "none":
            return super().reserve(num_bytes, device)
        return self._opened.store.reserve(num_bytes)

    def pack(self, chunk: SegmentChunk) -> TcpHandle:
        """A handle to the chunk's bytes, or to a copy if they are not in memory of `reserve`."""
        opened = self._opened
        header, body = encode_chunk(chunk, codec=self.codec)
        key = opened.store.put(body) if body.numel() else None
        return TcpHandle(header, body.numel(), opened.server.address, key)

    def unpack(self, payload: TcpHandle, *, expected: KVCacheSpec) -> SegmentChunk:
        """A chunk on the producer's own pages where they are on this machine; else in this machine's memory."""
        if payload.key is None:
            return decode_chunk(payload.header, from_raw(NOTHING), expected=expected)
        opened = self._opened
        address = payload.key.address
        if address is not None and address.machine == this_machine():
            # No byte has moved, and nobody but the producer can write there.
            return decode_chunk(payload.header, from_raw(map_body(address)), expected=expected, checks_digest=False)
        return _fetch_chunk(opened, payload, payload.key, expected)

    def fetch(self, payload: TcpHandle) -> None:
        """Bytes of another machine, for all readers on this one."""
        opened, key = self._opened, payload.key
        if key is not None and (key.address is None or key.address.machine != this_machine()):
            _fetch_chunk(opened, payload, key, None)

    def release(self, payload: TcpHandle) -> None:
        """A transfer that has begun goes on to its end; nobody can begin another."""
        if (opened := self._state) is None or payload.key is None:
            return
        if payload.producer == opened.server.address:
            opened.store.release(payload.key.token)
            opened.server.drop_copies(payload.key.token)
        else:
            opened.drop_copy(payload.key.token)

    def _end_state(self, state: _TcpState) -> None:
        state.server.close()
        state.connections.close()


def _fetch_chunk(opened: _TcpState, payload: TcpHandle, key: BufferKey, expected: KVCacheSpec | None) -> SegmentChunk:
    """The chunk of a payload whose bytes another machine has."""
    return opened.connections.use(payload.producer, lambda one: _fetch_over(one, opened, payload, key, expected))


def _fetch_over(
    connection: StreamConnection, opened: _TcpState, payload: TcpHandle, key: BufferKey, expected: KVCacheSpec | None
) -> SegmentChunk:
    copy = connection.find_copy(key.token, this_machine(), payload.num_bytes)
    if copy is not None:
        with suppress(TransferError):  # whoever brought it here is gone
            return decode_chunk(payload.header, from_raw(map_body(copy)), expected=expected, checks_digest=False)
    lease = opened.store.allocate(payload.num_bytes)
    try:
        connection.fetch(key.token, lease.body)
    except BaseException:
        opened.store.abort(lease)
        raise
    own, body = opened.store.commit(lease)
    try:
        chunk = decode_chunk(payload.header, body, expected=expected)
    except BaseException:
        opened.store.release(own.token)
        raise
    if own.address is None:
        opened.store.release(own.token)  # it lasts as long as the chunk
    elif opened.add_copy(key.token, own.token):
        connection.report_copy(key.token, own.address)
    return chunk
