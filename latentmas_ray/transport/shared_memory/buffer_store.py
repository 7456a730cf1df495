"""What a process keeps for others to read, by a token each, and the memory it lies in.

Where processes can part memory, it lies in shared buffers (`memfd`), so that readers on this machine map it.
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
    """Bytes, and who in this process needs them to stay as they are."""

    body: Tensor
    num_users: int = 0
    is_released: bool = False


@dataclass(frozen=True, eq=False)
class WriteLease:
    """Memory to be filled, and then put on the store, or given back."""

    body: Tensor  # flat uint8
    buffer: WriteBuffer | None  # that it lies in, if it is shared


@dataclass(frozen=True)
class BufferKey:
    """What something on a store is asked for by, and where processes of its machine find it, if they can."""

    token: bytes
    address: MemfdAddress | None


class BufferStore:
    """Safe to use from several threads. Memory that is in use is not written again, even when it was released."""

    def __init__(self, *, is_shared: bool, max_free_bytes: int) -> None:
        """Released shared buffers are kept for what comes next up to so many bytes."""
        self._pool = BufferPool(max_free_bytes) if is_shared else None
        self._kept: dict[bytes, _StoredBuffer] = {}
        # A finalizer may run wherever memory is given back, also where this thread holds the lock.
        self._lock = threading.RLock()

    def reserve(self, num_bytes: int) -> Tensor:
        """A flat uint8 tensor; `put` of what stands in it copies nothing. The one reserved before is taken back. Raises
        TransferError."""
        with self._lock:
            return empty_bytes(num_bytes, torch.device("cpu")) if self._pool is None else self._pool.reserve(num_bytes)

    def put(self, body: Tensor) -> BufferKey:
        """Keep a flat uint8 tensor of at least one byte, or a copy of it. Raises TransferError."""
        with self._lock:
            if self._pool is None:
                return self._add(body.cpu(), BufferKey(secrets.token_bytes(_TOKEN_BYTES), None))
            address = self._pool.write(body)
            return self._add(self._pool.body_of(address), BufferKey(address.token, address))

    def allocate(self, num_bytes: int) -> WriteLease:
        """Memory of at least one byte. Raises TransferError."""
        with self._lock:
            if self._pool is None:
                return WriteLease(empty_bytes(num_bytes, torch.device("cpu")), None)
            buffer = self._pool.allocate(num_bytes)
            return WriteLease(buffer.view(num_bytes), buffer)

    def abort(self, lease: WriteLease) -> None:
        """It was not filled."""
        with self._lock:
            if self._pool is not None and lease.buffer is not None:
                self._pool.abort(lease.buffer)

    def commit(self, lease: WriteLease) -> tuple[BufferKey, Tensor]:
        """Keep what a lease was filled with. Returns with its key the bytes, in use as long as they are referenced."""
        with self._lock:
            if self._pool is None or lease.buffer is None:
                key = self._add(lease.body, BufferKey(secrets.token_bytes(_TOKEN_BYTES), None))
            else:
                address = self._pool.commit(lease.buffer, lease.body.numel())
                key = self._add(lease.body, BufferKey(address.token, address))
            self._kept[key.token].num_users += 1
            array = lease.body.numpy()
            weakref.finalize(array, self._end_use, key.token).atexit = False
            return key, torch.from_numpy(array)

    @contextmanager
    def using(self, token: bytes) -> Iterator[Tensor | None]:
        """The bytes of a token as they are for as long as the body runs; None if they were released."""
        with self._lock:
            kept = self._kept.get(token)
            if kept is None or kept.is_released:
                kept = None
            else:
                kept.num_users += 1
        try:
            yield None if kept is None else kept.body
        finally:
            if kept is not None:
                self._end_use(token)

    def release(self, token: bytes) -> None:
        """Nobody may ask for it any more. Safe to call twice."""
        with self._lock:
            if (kept := self._kept.get(token)) is not None:
                kept.is_released = True
                if self._pool is not None:
                    self._pool.unpublish(token)
                self._drop_unused(token, kept)

    def _add(self, body: Tensor, key: BufferKey) -> BufferKey:
        self._kept[key.token] = _StoredBuffer(body)
        return key

    def _end_use(self, token: bytes) -> None:
        with self._lock:
            if (kept := self._kept.get(token)) is not None:
                kept.num_users -= 1
                self._drop_unused(token, kept)

    def _drop_unused(self, token: bytes, kept: _StoredBuffer) -> None:
        if kept.is_released and kept.num_users == 0:
            del self._kept[token]
            if self._pool is not None:
                self._pool.release(token)


def released_error() -> TransferError:
    """What a reader is told that asks for something which is not kept (any more)."""
    return TransferError("the segment is gone: its producer has released it")
