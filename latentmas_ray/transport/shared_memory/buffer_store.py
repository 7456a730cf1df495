"""A store of the buffers that a process offers to readers, by tokens.

If processes can share memory, the buffers are shared (`memfd`), so that readers on this machine map them.
"""

import secrets
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from latentmas_ray.errors import TransferError
from latentmas_ray.memory.buffers import empty_bytes
from latentmas_ray.transport.shared_memory.memfd import BufferPool, MemfdAddress, WriteBuffer

_TOKEN_BYTES = 16


@dataclass(eq=False)
class _StoredBuffer:
    """Stored bytes, and the number of their users in this process; bytes with users are not overwritten."""

    body: Tensor
    num_users: int = 0
    is_released: bool = False


@dataclass(frozen=True, eq=False)
class WriteLease:
    """Memory that its holder fills, and then passes to `commit` or `abort`."""

    body: Tensor  # flat uint8
    buffer: WriteBuffer | None  # that contains `body`, if it is shared


@dataclass(frozen=True)
class BufferKey:
    """The token of a stored buffer, and its address for processes of the same machine, if it is shared."""

    token: bytes
    address: MemfdAddress | None


class BufferStore:
    """Thread-safe store of buffers. Memory in use is not overwritten, even after its release."""

    def __init__(self, *, is_shared: bool, max_free_bytes: int) -> None:
        """Released shared buffers of up to `max_free_bytes` in total are kept for reuse."""
        self._pool = BufferPool(max_free_bytes) if is_shared else None
        self._stored: dict[bytes, _StoredBuffer] = {}
        # Reentrant: a finalizer may run while this thread holds the lock.
        self._lock = threading.RLock()

    def reserve(self, num_bytes: int) -> Tensor:
        """Return a flat uint8 tensor that `put` stores without a copy. Ends the previous reservation. Raises
        TransferError."""
        with self._lock:
            return empty_bytes(num_bytes, torch.device("cpu")) if self._pool is None else self._pool.reserve(num_bytes)

    def put(self, body: Tensor) -> BufferKey:
        """Store a flat uint8 tensor of at least one byte, or a copy of it. Raises TransferError."""
        with self._lock:
            if self._pool is None:
                return self._add(body.cpu(), BufferKey(secrets.token_bytes(_TOKEN_BYTES), None))
            address = self._pool.write(body)
            return self._add(self._pool.body_of(address), BufferKey(address.token, address))

    def allocate(self, num_bytes: int) -> WriteLease:
        """Return memory of at least one byte to be filled. Raises TransferError."""
        with self._lock:
            if self._pool is None:
                return WriteLease(empty_bytes(num_bytes, torch.device("cpu")), None)
            buffer = self._pool.allocate(num_bytes)
            return WriteLease(buffer.view(num_bytes), buffer)

    def abort(self, lease: WriteLease) -> None:
        """Free a lease that was not filled."""
        with self._lock:
            if self._pool is not None and lease.buffer is not None:
                self._pool.abort(lease.buffer)

    def commit(self, lease: WriteLease) -> tuple[BufferKey, Tensor]:
        """Store the bytes of a filled lease. Return its key, and the bytes, in use as long as they are referenced."""
        with self._lock:
            if self._pool is None or lease.buffer is None:
                key = self._add(lease.body, BufferKey(secrets.token_bytes(_TOKEN_BYTES), None))
            else:
                address = self._pool.commit(lease.buffer, lease.body.numel())
                key = self._add(lease.body, BufferKey(address.token, address))
            self._stored[key.token].num_users += 1
            array = lease.body.numpy()
            weakref.finalize(array, self._end_use, key.token).atexit = False
            return key, torch.from_numpy(array)

    @contextmanager
    def using(self, token: bytes) -> Iterator[Tensor | None]:
        """The bytes of a token, which do not change inside the `with` block; None if they were released."""
        with self._lock:
            stored = self._stored.get(token)
            if stored is None or stored.is_released:
                stored = None
            else:
                stored.num_users += 1
        try:
            yield None if stored is None else stored.body
        finally:
            if stored is not None:
                self._end_use(token)

    def release(self, token: bytes) -> None:
        """Refuse further reads of a token, and free its buffer once it is unused. Safe to call twice."""
        with self._lock:
            if (stored := self._stored.get(token)) is not None:
                stored.is_released = True
                if self._pool is not None:
                    self._pool.unpublish(token)
                self._drop_unused(token, stored)

    def _add(self, body: Tensor, key: BufferKey) -> BufferKey:
        self._stored[key.token] = _StoredBuffer(body)
        return key

    def _end_use(self, token: bytes) -> None:
        with self._lock:
            if (stored := self._stored.get(token)) is not None:
                stored.num_users -= 1
                self._drop_unused(token, stored)

    def _drop_unused(self, token: bytes, stored: _StoredBuffer) -> None:
        if stored.is_released and stored.num_users == 0:
            del self._stored[token]
            if self._pool is not None:
                self._pool.release(token)


def released_error() -> TransferError:
    """The error for a reader of a buffer that is not stored any more."""
    return TransferError("the segment is gone: its producer has released it")
