"""Transport over TCP between nodes and shared memory within each: the fastest way between nodes without RDMA."""

import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from latentmas_ray.authentication import Authenticator, ChunkId
from latentmas_ray.errors import SegmentError, TransferError
from latentmas_ray.memory import KVCacheSpec, SegmentChunk
from latentmas_ray.memory.wire import decode_chunk, decode_inputs, encode_chunk, from_raw
from latentmas_ray.transport.available import find_available
from latentmas_ray.transport.base import StatefulTransport
from latentmas_ray.transport.capabilities import BETWEEN_ACTORS, Capabilities
from latentmas_ray.transport.connection_pool import ConnectionPool
from latentmas_ray.transport.handles import SignedHandle, check_handle, sign_handle
from latentmas_ray.transport.listener import ServerAddress, own_host
from latentmas_ray.transport.shared_memory.buffer_store import BufferKey, BufferStore
from latentmas_ray.transport.shared_memory.memfd import map_body, this_machine
from latentmas_ray.transport.shared_memory.transport import MAX_FREE_BYTES, NOTHING
from latentmas_ray.transport.tcp.streams import StreamConnection, StreamServer

_NUM_REMEMBERED = 10_000  # released tokens


@dataclass(frozen=True)
class TcpHandle(SignedHandle):
    """A chunk's header, its producer, and the key of its KV there; None without KV."""

    header: bytes
    num_bytes: int
    producer: ServerAddress
    key: BufferKey | None


@dataclass(frozen=True)
class _Wanted:
    """What a reader expects of a chunk."""

    spec: KVCacheSpec | None
    chunk_id: ChunkId | None


class _TcpState:
    """The state of an open transport; it has locks and threads and cannot be pickled."""

    def __init__(self, timeout_seconds: float, authenticator: Authenticator, *, is_shared: bool) -> None:
        self.authenticator = authenticator
        key = authenticator.key
        self.store = BufferStore(is_shared=is_shared, max_free_bytes=MAX_FREE_BYTES)
        self.server = StreamServer(own_host(), self.store, timeout_seconds, key)
        self.connections = ConnectionPool(lambda address: StreamConnection(address, timeout_seconds, key))
        self._lock = threading.Lock()
        self._copies: dict[bytes, bytes] = {}  # by the producer's token: the token of the copy here
        self._released: deque[bytes] = deque(maxlen=_NUM_REMEMBERED)

    def add_copy(self, token: bytes, own: bytes) -> bool:
        """Store the copy `own` until `token` is released; False if it was released already."""
        with self._lock:
            if token not in self._released:
                self._copies[token] = own
                return True
        self.store.release(own)
        return False

    def drop_copy(self, token: bytes) -> None:
        """Release this machine's copy of the producer's buffer `token`."""
        with self._lock:
            self._released.append(token)  # a transfer of it may still be running
            copy = self._copies.pop(token, None)
        if copy is not None:
            self.store.release(copy)


class Tcp(StatefulTransport[_TcpState]):
    """Stores the bytes at the producer until `release`. Readers on its machine map them; the first reader on another
    machine fetches them and stores them for the others there until its own `release`.

    `unpack` waits at most `timeout_seconds` for each step (a connection, 64 MiB) and raises TransferError if a producer
    is gone, stalls, or has released the chunk. A broken connection that was in use before is made once more.
    """

    name = "tcp"
    capabilities = Capabilities(links=BETWEEN_ACTORS, shares_node=True, readers_keep=True)

    def __init__(self, timeout_seconds: float = 30.0, *, shares_memory: bool = True) -> None:
        """Without `shares_memory` TCP is used within a machine, too."""
        self._timeout_seconds = timeout_seconds
        self._shares_memory = shares_memory

    def _make_state(self) -> _TcpState:
        is_shared = self._shares_memory and "memfd" in find_available()
        return _TcpState(self._timeout_seconds, self.authenticator, is_shared=is_shared)

    def reserve(self, num_bytes: int, device: torch.device) -> Tensor:
        """Return memory that readers can map without another copy, for a chunk on the CPU."""
        if device.type != "cpu" or num_bytes == 0 or self.codec != "none":
            return super().reserve(num_bytes, device)
        return self._open_state.store.reserve(num_bytes)

    def pack(self, chunk: SegmentChunk, chunk_id: ChunkId | None = None) -> TcpHandle:
        """Return a handle to the chunk's bytes, or to a copy if they are not in memory of `reserve`."""
        state = self._open_state
        header, body = encode_chunk(chunk, codec=self.codec, authenticator=self.authenticator, chunk_id=chunk_id)
        key = state.store.put(body) if body.numel() else None
        return sign_handle(TcpHandle(header, body.numel(), state.server.address, key), self.authenticator)

    def unpack(self, payload: TcpHandle, *, expected: KVCacheSpec, chunk_id: ChunkId | None = None) -> SegmentChunk:
        """Return a chunk on the producer's pages if they are on this machine, else on this machine's copy."""
        state, wanted = self._open_state, _Wanted(expected, chunk_id)
        check_handle(payload, TcpHandle, self.authenticator)
        if payload.key is None:
            return _decode(state, payload, NOTHING, wanted)
        address = payload.key.address
        if address is not None and address.machine == this_machine():
            # No byte has moved, and the system lets only the producer write there.
            return _decode(state, payload, map_body(address), wanted, checks_digest=False)
        return _fetch_chunk(state, payload, payload.key, wanted)

    def unpack_inputs(self, payload: TcpHandle, *, chunk_id: ChunkId | None = None) -> SegmentChunk:
        check_handle(payload, TcpHandle, self.authenticator)
        return decode_inputs(payload.header, authenticator=self.authenticator, chunk_id=chunk_id)

    def fetch(self, payload: TcpHandle) -> None:
        """Copy another machine's bytes to this one, for all its readers."""
        state = self._open_state
        check_handle(payload, TcpHandle, self.authenticator)
        key = payload.key
        if key is not None and (key.address is None or key.address.machine != this_machine()):
            _fetch_chunk(state, payload, key, _Wanted(None, None))

    def release(self, payload: TcpHandle) -> None:
        """Release the bytes. A transfer that has started completes; no other can start."""
        if (state := self._state) is None or payload.key is None:
            return
        if payload.producer == state.server.address:
            state.store.release(payload.key.token)
            state.server.drop_copies(payload.key.token)
        else:
            state.drop_copy(payload.key.token)

    def name_of(self, payload: TcpHandle) -> str:
        """`shared_memory` where this process maps the producer's bytes."""
        address = None if payload.key is None else payload.key.address
        return "shared_memory" if address is not None and address.machine == this_machine() else self.name

    def _end_state(self, state: _TcpState) -> None:
        state.server.close()
        state.connections.close()


def _decode(
    state: _TcpState, payload: TcpHandle, body: Tensor | np.ndarray, wanted: _Wanted, *, checks_digest: bool = True
) -> SegmentChunk:
    return decode_chunk(
        payload.header,
        body if isinstance(body, Tensor) else from_raw(body),
        expected=wanted.spec,
        checks_digest=checks_digest,
        authenticator=state.authenticator,
        chunk_id=wanted.chunk_id,
    )


def _fetch_chunk(state: _TcpState, payload: TcpHandle, key: BufferKey, wanted: _Wanted) -> SegmentChunk:
    """Fetch the chunk of a payload from another machine."""
    return state.connections.use(payload.producer, lambda one: _fetch_over(one, state, payload, key, wanted))


def _fetch_over(
    connection: StreamConnection, state: _TcpState, payload: TcpHandle, key: BufferKey, wanted: _Wanted
) -> SegmentChunk:
    copy = connection.find_copy(key.token, this_machine(), payload.num_bytes)
    if copy is not None:
        # The process that stored the copy may be gone, or have stored something else: then the original is fetched.
        with suppress(TransferError, SegmentError):
            return _decode(state, payload, map_body(copy), wanted)
    lease = state.store.allocate(payload.num_bytes)
    try:
        connection.fetch(key.token, lease.body)
    except BaseException:
        state.store.abort(lease)
        raise
    own, body = state.store.commit(lease)
    try:
        chunk = _decode(state, payload, body, wanted)
    except BaseException:
        state.store.release(own.token)
        raise
    if own.address is None:
        state.store.release(own.token)  # the bytes exist as long as the chunk
    elif state.add_copy(key.token, own.token):
        connection.report_copy(key.token, own.address)
    return chunk
