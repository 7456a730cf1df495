"""Buffers that the processes of one machine share: anonymous memory files, written once and mapped by readers.

No cleanup is needed. A buffer has no name; the kernel frees it when its writer and all readers have closed it or died.

Access rules:

* The first page holds a token while the buffer can be read, and zeros otherwise. A handle holds the same token.
* A reader takes a shared `flock` on the file and then compares tokens. The lock belongs to its mapping and ends with
  it.
* The writer erases the token when the chunk is released. Before it writes again it takes the exclusive lock, which
  succeeds only when no mapping is left. So a reader's pages never change, and a late reader gets an error.

The file is sealed: only its owner can map it writable, and its size is fixed. A reader checks that: what it maps is a
sealed memory file of its own user, wherever the address came from.
"""

import contextlib
import fcntl
import mmap
import os
import secrets
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentmas_ray.errors import TransferError
from latentmas_ray.transport.channel import get_count, get_field

HEAD_BYTES = 4096  # the token has its own page, so that the body begins on a page boundary
_TOKEN_BYTES = 16
_MAX_MACHINE_CHARS = 256
_F_SEAL_FUTURE_WRITE = 0x0010  # linux/fcntl.h; Python has a name for it from 3.13 on
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | _F_SEAL_FUTURE_WRITE


@dataclass(frozen=True)
class MemfdAddress:
    """The address of a written buffer for readers on the same machine."""

    machine: str
    pid: int
    fd: int
    inode: int
    token: bytes
    num_bytes: int

    def to_message(self) -> dict[str, Any]:
        """The address as a field of a message."""
        return asdict(self)

    @classmethod
    def from_message(cls, field: Mapping[str, Any]) -> "MemfdAddress":
        """The inverse of `to_message`. Raises LinkError for anything that cannot be an address."""
        names = ("pid", "fd", "inode", "num_bytes")
        pid, fd, inode, num_bytes = (get_count(field, name) for name in names)
        machine = get_field(field, "machine", str)[:_MAX_MACHINE_CHARS]
        return cls(machine, pid, fd, inode, get_field(field, "token", bytes), num_bytes)


class WriteBuffer:
    """A buffer in the process that created it. It is closed when it is garbage-collected; readers' mappings stay."""

    def __init__(self, num_bytes: int, first: Tensor | None = None) -> None:
        """Create a locked buffer for chunks of about `num_bytes`, filled with `first`, a flat uint8 tensor, if given.

        Raises OSError if there is no memory.
        """
        self.capacity = capacity_for(num_bytes)
        self.touched_bytes = 0  # pages that were written once stay allocated
        self._fd = os.memfd_create("latentmas", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self._fd, HEAD_BYTES + self.capacity)
            if first is not None:  # write() allocates fresh pages two to three times faster than touching them does
                _write_all(self._fd, first.cpu().numpy())
            self._map = mmap.mmap(self._fd, HEAD_BYTES + self.capacity)
            fcntl.fcntl(self._fd, fcntl.F_ADD_SEALS, _SEALS)
        except BaseException:
            os.close(self._fd)
            raise
        self._body = torch.frombuffer(self._map, dtype=torch.uint8)[HEAD_BYTES:]
        self.acquire()

    def acquire(self) -> bool:
        """Lock the buffer for writing; False if a reader still maps its previous contents."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def view(self, num_bytes: int) -> Tensor:
        """The bytes to write, between `acquire` and `publish`."""
        return self._body[:num_bytes]

    def publish(self, num_bytes: int) -> MemfdAddress:
        """Make the first `num_bytes` readable; they must not change any more."""
        self.touched_bytes = max(self.touched_bytes, num_bytes)
        token = secrets.token_bytes(_TOKEN_BYTES)
        self._map[:_TOKEN_BYTES] = token
        fcntl.flock(self._fd, fcntl.LOCK_UN)
        return MemfdAddress(this_machine(), os.getpid(), self._fd, os.fstat(self._fd).st_ino, token, num_bytes)

    def erase(self) -> None:
        """Refuse new readers; existing mappings stay valid."""
        self._map[:_TOKEN_BYTES] = bytes(_TOKEN_BYTES)

    def __del__(self) -> None:
        # The mapping has its own descriptor and closes it with the last tensor that uses it.
        if hasattr(self, "_body"):
            os.close(self._fd)


def map_body(address: MemfdAddress) -> np.ndarray:
    """Map a buffer's bytes, read-only and without a copy; they do not change as long as they are referenced.

    Raises TransferError if they were released or their writer died.
    """
    if address.machine != this_machine():
        raise TransferError("the segment is in the memory of another machine; transport object_store reaches that")
    gone = f"the segment is gone: process {address.pid}, which held it, has released it or died"
    if not _is_address(address):
        raise TransferError(f"no address of a segment: {address}")
    try:
        fd = _open_sealed(f"/proc/{address.pid}/fd/{address.fd}", address.inode)
    except OSError as error:
        raise TransferError(f"{gone} ({error.strerror})") from error
    if fd is None:  # the process id or descriptor was reused
        raise TransferError(gone)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        # Pages are mapped on first touch, many at a time: MAP_POPULATE took twice as long.
        shared = mmap.mmap(fd, HEAD_BYTES + address.num_bytes, prot=mmap.PROT_READ)
    except (OSError, ValueError, OverflowError) as error:
        raise TransferError(f"{gone} ({error})") from error
    finally:
        os.close(fd)  # the mapping has its own descriptor, which holds the lock
    if shared[:_TOKEN_BYTES] != address.token:
        raise TransferError(gone)
    return np.frombuffer(shared, dtype=np.uint8, offset=HEAD_BYTES, count=address.num_bytes)


def _is_address(address: MemfdAddress) -> bool:
    numbers = (address.pid, address.fd, address.num_bytes)
    return all(type(number) is int and number >= 0 for number in numbers) and address.num_bytes > 0


def _open_sealed(path: str, inode: int) -> int | None:
    """Open a descriptor of another process if it is a sealed memory file of this user with this inode number.

    It is looked at before it is opened, because opening a device or a pipe may do something. Raises OSError.
    """
    if not _is_own_file(os.stat(path), inode):  # noqa: PTH116  a path of numbers
        return None
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if _is_own_file(os.fstat(fd), inode) and fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALS == _SEALS:
            return fd
    except OSError:
        os.close(fd)
        raise
    os.close(fd)
    return None


def _is_own_file(status: os.stat_result, inode: int) -> bool:
    return stat.S_ISREG(status.st_mode) and status.st_ino == inode and status.st_uid == os.geteuid()


class BufferPool:
    """Published buffers by token, and free buffers for reuse: allocating pages is most of the cost of a first write."""

    def __init__(self, max_free_bytes: int) -> None:
        """The free buffers that were used last are kept, up to `max_free_bytes` in total."""
        self._max_free_bytes = max_free_bytes
        self._full: dict[bytes, WriteBuffer] = {}
        self._free: list[WriteBuffer] = []
        self._reserved: WriteBuffer | None = None

    def reserve(self, num_bytes: int) -> Tensor:
        """Return a flat uint8 tensor of at least one byte, which `write` publishes without a copy. Ends the previous
        reservation. Raises TransferError."""
        if self._reserved is not None:  # its turn failed before it wrote
            self.abort(self._reserved)
        self._reserved = self.allocate(num_bytes)
        return self._reserved.view(num_bytes)

    def write(self, body: Tensor) -> MemfdAddress:
        """Publish a flat uint8 tensor of at least one byte, copied unless it is reserved. Raises TransferError."""
        num_bytes = body.numel()
        if self._reserved is not None and body.data_ptr() == self._reserved.view(1).data_ptr():
            buffer, self._reserved = self._reserved, None
        elif (free := self._take_free(num_bytes)) is not None:
            buffer = free
            if body.is_cuda:
                buffer.view(num_bytes).copy_(body)
            else:  # the C library's copy does not read what it overwrites
                np.copyto(buffer.view(num_bytes).numpy(), body.numpy())
        else:
            buffer = _new_buffer(num_bytes, body)
        return self.commit(buffer, num_bytes)

    def allocate(self, num_bytes: int) -> WriteBuffer:
        """Return a locked buffer; the caller writes it and calls `commit` or `abort`. Raises TransferError."""
        return self._take_free(num_bytes) or _new_buffer(num_bytes, None)

    def commit(self, buffer: WriteBuffer, num_bytes: int) -> MemfdAddress:
        """Publish the first `num_bytes` of an allocated buffer; return its address."""
        address = buffer.publish(num_bytes)
        self._full[address.token] = buffer
        return address

    def abort(self, buffer: WriteBuffer) -> None:
        """Free an allocated buffer whose contents are not needed."""
        if buffer is self._reserved:
            self._reserved = None
        buffer.publish(buffer.capacity)
        buffer.erase()
        self._free.append(buffer)

    def body_of(self, address: MemfdAddress) -> Tensor:
        """The published bytes, valid until `release`."""
        return self._full[address.token].view(address.num_bytes)

    def unpublish(self, token: bytes) -> None:
        """Refuse new readers of this token. Safe to call twice."""
        if (buffer := self._full.get(token)) is not None:
            buffer.erase()

    def release(self, token: bytes) -> None:
        """Free the buffer of this token for reuse. Safe to call twice."""
        if (buffer := self._full.pop(token, None)) is None:
            return
        buffer.erase()
        self._free.append(buffer)
        while sum(buffer.touched_bytes for buffer in self._free) > self._max_free_bytes:
            del self._free[0]

    def _take_free(self, num_bytes: int) -> WriteBuffer | None:
        """A free buffer of this capacity that no reader maps any more, locked for writing; None if there is none."""
        for buffer in reversed(self._free):
            if buffer.capacity == capacity_for(num_bytes) and buffer.acquire():
                self._free.remove(buffer)
                return buffer
        return None


def _new_buffer(num_bytes: int, first: Tensor | None) -> WriteBuffer:
    try:
        return WriteBuffer(num_bytes, first)
    except OSError as error:
        raise TransferError(f"no shared memory for a segment of {num_bytes} bytes: {error}") from error


def capacity_for(num_bytes: int) -> int:
    """Powers of two, so that buffers are used again; what is not written takes no memory."""
    return 1 << (num_bytes - 1).bit_length()


def _write_all(fd: int, body: np.ndarray) -> None:
    rest, position = body.data, HEAD_BYTES
    while len(rest):  # one call writes at most 2 GiB
        written = os.pwrite(fd, rest, position)
        rest, position = rest[written:], position + written


@cache
def this_machine() -> str:
    """Equal for processes that can find one another under /proc."""
    with contextlib.suppress(OSError):
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {Path('/proc/self/ns/pid').readlink()}"
    return ""
