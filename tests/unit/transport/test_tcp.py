"""What goes over plain TCP: who keeps it, for whom, and until when."""

import gc
import os
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from latentmas_ray.errors import LinkError, TransferError, WireError
from latentmas_ray.memory import SegmentChunk, join
from latentmas_ray.transport import Tcp, find_available
from latentmas_ray.transport.listener import call
from latentmas_ray.transport.shared_memory.buffer_store import BufferStore
from latentmas_ray.transport.shared_memory.memfd import BufferPool, this_machine
from latentmas_ray.transport.tcp.streams import StreamConnection, StreamServer
from latentmas_ray.transport.tcp.transport import TcpHandle
from tests.cases.memory import SPEC, assert_equal, make_segment

TIMEOUT_SECONDS = 2.0
SEGMENT = make_segment([(5, 2), (1, 0)])
needs_memfd = pytest.mark.skipif("memfd" not in find_available(), reason="memfd is not here")


@pytest.fixture
def ends() -> Iterator[list[Tcp]]:
    """A producer as if on another machine, where nobody can map what it has, and two readers on this one."""
    ends = [Tcp(TIMEOUT_SECONDS, shares_memory=False), Tcp(TIMEOUT_SECONDS), Tcp(TIMEOUT_SECONDS)]
    for end in ends:
        end.open()
    yield ends
    for end in ends:
        end.close()


def num_brought(end: Tcp) -> int:
    return len(end._open_state._copies)


def wait_until_told(payload: TcpHandle) -> None:
    """A reader says what it has brought without waiting for an answer; the producer knows it a moment later."""
    assert payload.key is not None
    connection = StreamConnection(payload.producer, TIMEOUT_SECONDS)
    while connection.find_copy(payload.key.token, this_machine(), payload.num_bytes) is None:
        time.sleep(0.001)
    connection.close()


@needs_memfd
def test_a_machine_s_second_reader_finds_what_the_first_has_brought(ends: list[Tcp]) -> None:
    producer, first, second = ends
    payload = producer.pack(SegmentChunk.whole(SEGMENT))
    for reader in (first, second, first):
        assert_equal(join([reader.unpack(payload, expected=SPEC)]), SEGMENT)
        wait_until_told(payload)
    assert (num_brought(first), num_brought(second)) == (1, 0)
    first.release(payload)
    assert_equal(join([second.unpack(payload, expected=SPEC)]), SEGMENT)
    assert (num_brought(first), num_brought(second)) == (0, 1)
    for end in ends:
        end.release(payload)
        end.release(payload)
    with pytest.raises(TransferError, match="released"):
        first.unpack(payload, expected=SPEC)


@needs_memfd
def test_what_was_fetched_before_is_found_and_what_comes_too_late_is_let_go(ends: list[Tcp]) -> None:
    producer, first, second = ends
    payload = producer.pack(SegmentChunk.whole(SEGMENT))
    first.fetch(payload)
    wait_until_told(payload)
    for reader in (first, second):
        assert_equal(join([reader.unpack(payload, expected=SPEC)]), SEGMENT)
    assert (num_brought(first), num_brought(second)) == (1, 0)
    first.release(payload)
    first.fetch(payload)
    assert num_brought(first) == 0


@needs_memfd
def test_a_reader_that_is_gone_is_done_without(ends: list[Tcp]) -> None:
    producer, first, second = ends
    payload = producer.pack(SegmentChunk.whole(SEGMENT))
    first.unpack(payload, expected=SPEC)
    wait_until_told(payload)
    first.close()
    gc.collect()  # as its process's end would, closes its buffers
    assert_equal(join([second.unpack(payload, expected=SPEC)]), SEGMENT)


def _false_copies(payload: TcpHandle) -> Iterator[dict[str, Any]]:
    """What a process of the run could say of a copy that is none, or not this one."""
    assert payload.key is not None
    size, pool = payload.num_bytes, BufferPool(0)
    other = pool.write(torch.full((size,), 60, dtype=torch.uint8))
    longer = pool.write(torch.full((size + 8,), 60, dtype=torch.uint8))
    unsealed = os.memfd_create("unsealed")
    os.write(unsealed, b"t" * 16 + bytes(5000 + size))
    plain = {**other.to_message(), "token": b"t" * 16}
    yield other.to_message()
    yield longer.to_message()
    yield {**longer.to_message(), "num_bytes": size}
    yield {**plain, "fd": unsealed, "inode": os.fstat(unsealed).st_ino}
    for change in ({"pid": 2**22 + 1}, {"pid": 0}, {"fd": 0}, {"inode": 1}, {"token": b""}, {"num_bytes": 0}):
        yield {**other.to_message(), **change}
    read, write = os.pipe()
    yield {**plain, "fd": read, "inode": os.fstat(read).st_ino}
    for fd in (unsealed, read, write):
        os.close(fd)


@needs_memfd
def test_a_copy_is_checked_like_the_original(ends: list[Tcp]) -> None:
    producer, reader, _ = ends
    payload = producer.pack(SegmentChunk.whole(SEGMENT))
    assert payload.key is not None
    for message in _false_copies(payload):
        producer._open_state.server._note_copy({"copied": payload.key.token, "address": message})
        assert_equal(join([reader.unpack(payload, expected=SPEC)]), SEGMENT)
        wait_until_told(payload)  # it fetched the original, which is the copy for others now
        reader.release(payload)
        reader._open_state._released.clear()


def test_what_a_reader_holds_stays_when_all_others_have_released_it(ends: list[Tcp]) -> None:
    producer, reader, _ = ends
    held = reader.unpack(producer.pack(SegmentChunk.whole(SEGMENT)), expected=SPEC)
    payload = producer.pack(SegmentChunk.whole(SEGMENT))
    held = reader.unpack(payload, expected=SPEC)
    for end in ends:
        end.release(payload)
    for seed in range(3):
        other = producer.pack(SegmentChunk.whole(make_segment([(5, 2), (1, 0)], seed=seed + 1)))
        reader.unpack(other, expected=SPEC)
        for end in ends:
            end.release(other)
    assert_equal(join([held]), SEGMENT)


def test_bytes_that_were_altered_on_the_way_are_noticed_and_not_kept(ends: list[Tcp]) -> None:
    producer, reader, other = ends
    payload = producer.pack(SegmentChunk.whole(SEGMENT))
    assert payload.key is not None
    with producer._open_state.store.using(payload.key.token) as body:
        assert body is not None
        body[3] ^= 1
        for end in (reader, other):
            with pytest.raises(WireError, match="damaged"):
                end.unpack(payload, expected=SPEC)
            assert num_brought(end) == 0
        body[3] ^= 1
    assert_equal(join([reader.unpack(payload, expected=SPEC)]), SEGMENT)


def test_a_large_buffer_comes_in_shares() -> None:
    store = BufferStore(is_shared=False, max_free_bytes=0)
    body = torch.arange(3_000_003, dtype=torch.int32).view(torch.uint8)[:-3]
    token = store.put(body).token
    server = StreamServer("127.0.0.1", store, TIMEOUT_SECONDS)
    connection = StreamConnection(server.address, TIMEOUT_SECONDS)
    target = torch.zeros_like(body)
    for _ in range(2):
        assert connection.find_copy(token, "here", body.numel()) is None
        connection.fetch(token, target)
        assert torch.equal(target, body)
        target.zero_()
    store.release(token)
    with pytest.raises(TransferError, match="released"):
        connection.fetch(token, target)
    with pytest.raises(TransferError, match="released"):
        connection.find_copy(token, "here", body.numel())
    connection.close()
    server.close()


def test_a_wrong_request_ends_only_its_own_connection() -> None:
    store = BufferStore(is_shared=False, max_free_bytes=0)
    token = store.put(torch.ones(100, dtype=torch.uint8)).token
    server = StreamServer("127.0.0.1", store, TIMEOUT_SECONDS)
    for request in ({"buffer": 7}, {"buffer": token, "first": 90, "count": 11}, {"copied": token, "address": {"x": 1}}):
        channel = call(server.address, TIMEOUT_SECONDS)
        channel.send(**request)
        with pytest.raises(LinkError):
            channel.receive()
        channel.close()
    connection = StreamConnection(server.address, TIMEOUT_SECONDS)
    with pytest.raises(LinkError, match="100 bytes, its handle says 99"):
        connection.find_copy(token, "here", 99)
    server.close()
    with pytest.raises(LinkError):
        connection.find_copy(token, "here", 100)
    connection.close()


def test_memory_in_use_is_not_written_again() -> None:
    store = BufferStore(is_shared="memfd" in find_available(), max_free_bytes=2**20)
    first = torch.full((5000,), 1, dtype=torch.uint8)
    token = store.put(first).token
    with store.using(token) as body:
        assert body is not None
        store.release(token)
        with store.using(token) as late:
            assert late is None
        store.put(torch.full((5000,), 2, dtype=torch.uint8))
        assert torch.equal(body, first)
    lease = store.allocate(5000)
    lease.body.fill_(3)
    key, held = store.commit(lease)
    store.release(key.token)
    store.put(torch.full((5000,), 4, dtype=torch.uint8))
    assert torch.equal(held, torch.full((5000,), 3, dtype=torch.uint8))
    store.abort(store.allocate(10))


def test_nobody_is_waited_for_at_a_port_that_is_silent(ends: list[Tcp]) -> None:
    producer, reader, _ = ends
    payload = producer.pack(SegmentChunk.whole(SEGMENT))
    producer.close()
    with pytest.raises(TransferError, match="no process listens at"):
        reader.unpack(payload, expected=SPEC)
    silent = socket.create_server((payload.producer.host, payload.producer.port))
    with silent, pytest.raises(TransferError, match="did not answer"):
        reader.unpack(payload, expected=SPEC)
