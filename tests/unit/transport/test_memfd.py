"""Memory that processes part: who may touch a buffer when, and that nothing of it is left over."""

import fcntl
import gc
import mmap
import os
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from latentmas_ray.errors import TransferError
from latentmas_ray.transport.shared_memory.memfd import BufferPool, MemfdAddress, WriteBuffer, map_body


def body(number: int, num_bytes: int = 5000) -> Tensor:
    return torch.full((num_bytes,), number, dtype=torch.uint8)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("num_bytes", [1, 4096, 4097, 2**20])
def test_what_was_written_is_mapped_read_only(num_bytes: int) -> None:
    pool = BufferPool(2**30)
    mapped = map_body(pool.write(body(7, num_bytes)))
    assert mapped.nbytes == num_bytes
    assert (mapped == 7).all()
    assert not mapped.flags.writeable


def test_a_released_buffer_is_written_again_when_nobody_has_it_mapped() -> None:
    pool = BufferPool(2**30)
    first = pool.write(body(1))
    pool.release(first.token)
    second = pool.write(body(2))
    assert second.inode == first.inode
    with pytest.raises(TransferError, match="has released it or died"):
        map_body(first)
    assert (map_body(second) == 2).all()


def test_a_buffer_that_is_mapped_is_never_written_again() -> None:
    pool = BufferPool(2**30)
    first = pool.write(body(1))
    mapped, again = map_body(first), map_body(first)
    pool.release(first.token)
    pool.release(first.token)
    second = pool.write(body(2))
    assert second.inode != first.inode
    del mapped
    assert pool.write(body(3)).inode not in (first.inode, second.inode)
    assert (again == 1).all()
    del again
    assert pool.write(body(4)).inode == first.inode


def test_a_part_of_a_mapping_holds_all_of_it() -> None:
    pool = BufferPool(2**30)
    address = pool.write(body(1))
    part = torch.from_numpy(map_body(address).copy())[:10], map_body(address)[10:20]
    pool.release(address.token)
    assert pool.write(body(2)).inode != address.inode
    assert (part[1] == 1).all()


def test_what_is_mapped_outlives_the_pool() -> None:
    pool = BufferPool(2**30)
    address = pool.write(body(1))
    mapped = map_body(address)
    del pool
    gc.collect()
    with pytest.raises(TransferError, match="has released it or died"):
        map_body(address)
    assert (mapped == 1).all()


def test_free_buffers_are_kept_up_to_a_bound_and_none_leaks() -> None:
    before = descriptors()
    pool = BufferPool(10_000)
    for _ in range(3):
        addresses = [pool.write(body(number)) for number in range(4)]
        for address in addresses:
            map_body(address)
            pool.release(address.token)
    assert descriptors() <= before + 2 * 2  # two fit below the bound, with the mapping's own descriptor each
    assert pool.write(body(9)).inode == addresses[-1].inode
    del pool
    assert descriptors() == before


def test_nobody_else_can_write() -> None:
    pool = BufferPool(2**30)
    address = pool.write(body(1))
    fd = os.open(f"/proc/{address.pid}/fd/{address.fd}", os.O_RDWR)
    try:
        with pytest.raises(PermissionError):
            mmap.mmap(fd, 4096)
        with pytest.raises(PermissionError):
            os.write(fd, b"x")
        with pytest.raises(PermissionError):
            os.ftruncate(fd, 0)
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    "change",
    [{"pid": 2**22 + 1}, {"fd": 9999}, {"inode": 1}, {"token": bytes(16)}, {"token": b"x" * 16}, {"num_bytes": 2**40}],
    ids=str,
)
def test_an_address_where_something_else_is_or_nothing(change: dict[str, object]) -> None:
    before = descriptors()
    pool = BufferPool(2**30)
    address: MemfdAddress = pool.write(body(1))
    with pytest.raises(TransferError, match="has released it or died"):
        map_body(replace(address, **change))  # type: ignore[arg-type]
    del pool
    assert descriptors() == before


@pytest.mark.parametrize(
    "change",
    [
        {"pid": "../tmp/x"},
        {"pid": "1/../../tmp/x"},
        {"pid": -1},
        {"pid": True},
        {"pid": None},
        {"fd": "0/../../../etc/passwd"},
        {"fd": -1},
        {"fd": 1.0},
        {"num_bytes": -1},
        {"num_bytes": -(2**63)},
        {"num_bytes": 0},
        {"num_bytes": "5"},
        {"num_bytes": None},
    ],
    ids=str,
)
def test_an_address_that_is_none(change: dict[str, object]) -> None:
    address = BufferPool(2**30).write(body(1))
    with pytest.raises(TransferError, match="no address of a segment"):
        map_body(replace(address, **change))  # type: ignore[arg-type]


def test_what_is_no_sealed_file_of_this_user_is_not_opened(tmp_path: Path) -> None:
    """A pipe, a device, a file, a memory file that its owner can still write, and one of another user."""
    pool = BufferPool(2**30)
    address = pool.write(body(1))
    (tmp_path / "file").write_bytes(address.token + bytes(9000))
    unsealed = os.memfd_create("unsealed", os.MFD_ALLOW_SEALING)
    os.write(unsealed, address.token + bytes(9000))
    half = os.memfd_create("half", os.MFD_ALLOW_SEALING)
    os.write(half, address.token + bytes(9000))
    fcntl.fcntl(half, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    fds = [*os.pipe(), os.open("/dev/zero", os.O_RDONLY), os.open(tmp_path / "file", os.O_RDONLY), unsealed, half]
    for fd in fds:
        with pytest.raises(TransferError, match="has released it or died"):
            map_body(replace(address, pid=os.getpid(), fd=fd, inode=os.fstat(fd).st_ino))
    for fd in fds:
        os.close(fd)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_sealed_file_of_another_user_is_not_taken() -> None:
    pool = BufferPool(2**30)
    address = pool.write(body(1))
    assert (map_body(address) == 1).all()
    os.chown(f"/proc/{address.pid}/fd/{address.fd}", 1, 1)
    with pytest.raises(TransferError, match="has released it or died"):
        map_body(address)


def test_an_address_on_another_machine() -> None:
    address = BufferPool(2**30).write(body(1))
    with pytest.raises(TransferError, match="the memory of another machine"):
        map_body(replace(address, machine="another"))


def test_a_buffer_goes_with_its_last_reference() -> None:
    buffer = WriteBuffer(5000, body(1))
    address = buffer.publish(5000)
    gone = weakref.ref(buffer)
    del buffer
    assert gone() is None
    with pytest.raises(TransferError):
        map_body(address)


def test_writing_is_refused_while_it_is_read() -> None:
    buffer = WriteBuffer(5000, body(1))
    address = buffer.publish(5000)
    mapped: np.ndarray = map_body(address)
    buffer.erase()
    assert not buffer.acquire()
    assert (mapped == 1).all()


def test_what_is_written_where_it_was_lent_is_not_copied() -> None:
    pool = BufferPool(2**30)
    reserved = pool.reserve(5000)
    reserved.fill_(3)
    address = pool.write(reserved)
    assert (map_body(address) == 3).all()
    pool.release(address.token)
    again = pool.reserve(5000)
    assert again.data_ptr() == reserved.data_ptr()


def test_what_was_lent_and_not_written_is_lent_again() -> None:
    pool = BufferPool(2**30)
    first = pool.reserve(5000)
    assert pool.reserve(5000).data_ptr() == first.data_ptr()
    other = pool.write(body(4))
    assert (map_body(other) == 4).all()


def test_what_a_reader_has_mapped_is_not_reserved() -> None:
    pool = BufferPool(2**30)
    address = pool.write(body(1))
    mapped = map_body(address)
    pool.release(address.token)
    pool.reserve(5000).fill_(9)
    assert (mapped == 1).all()
