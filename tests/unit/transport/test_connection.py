"""The way from a reader to a producer: who is let in, and what happens when one side stops in the middle."""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import msgpack
import pytest
import torch

from latentmas_ray.errors import LinkError, TransferError, WireError
from latentmas_ray.memory import SegmentChunk, join
from latentmas_ray.transport import Gloo
from latentmas_ray.transport.channel import Channel, StalledError
from latentmas_ray.transport.gpu.checksum import decode_with_checksum, device_checksum, encode_with_checksum
from latentmas_ray.transport.gpu.connection import GroupConnection, GroupServer
from latentmas_ray.transport.handle_table import HandleTable
from tests.cases.memory import SPEC, assert_equal, make_segment

HOST = "127.0.0.1"
TIMEOUT_SECONDS = 1.0
BYTES = torch.arange(100_000, dtype=torch.int64).view(torch.uint8)


@pytest.fixture
def server() -> Iterator[GroupServer]:
    kept: HandleTable[torch.Tensor] = HandleTable()
    assert kept.add(BYTES) == 1
    server = GroupServer("gloo", HOST, kept, TIMEOUT_SECONDS)
    yield server
    server.close()
    server.close()


def test_a_link_fetches_again_and_again(server: GroupServer) -> None:
    connection = GroupConnection("gloo", server.address, HOST, TIMEOUT_SECONDS)
    for _ in range(3):
        assert torch.equal(connection.fetch(1, BYTES.numel()), BYTES)
    with pytest.raises(TransferError, match="its producer has released it"):
        connection.fetch(2, 10)
    assert torch.equal(connection.fetch(1, BYTES.numel()), BYTES)
    connection.close()
    connection.close()


def test_a_stranger_is_sent_away(server: GroupServer) -> None:
    address = replace(server.address, token=bytes(16))
    with pytest.raises(LinkError, match="closed the connection"):
        GroupConnection("gloo", address, HOST, TIMEOUT_SECONDS)


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        struct.pack("<I", 2**31),
        struct.pack("<I", 3) + b"\xc1\xc1\xc1",
        struct.pack("<I", 1) + msgpack.packb(7),
        b"",
    ],
    ids=["http", "huge", "no msgpack", "no mapping", "silence"],
)
def test_what_makes_no_sense_is_hung_up_on(server: GroupServer, said: bytes) -> None:
    with socket.create_connection((HOST, server.address.port), TIMEOUT_SECONDS + 2) as connection:
        connection.sendall(said)
        with contextlib.suppress(ConnectionResetError):  # it had not read everything
            assert connection.recv(1) == b""
    assert torch.equal(GroupConnection("gloo", server.address, HOST, TIMEOUT_SECONDS).fetch(1, BYTES.numel()), BYTES)


def test_a_handle_with_another_size_is_refused(server: GroupServer) -> None:
    with pytest.raises(LinkError, match="its handle says 10"):
        GroupConnection("gloo", server.address, HOST, TIMEOUT_SECONDS).fetch(1, 10)


def test_a_producer_that_says_nothing_is_not_waited_for(server: GroupServer) -> None:
    with socket.create_server((HOST, 0)) as silent:
        address = replace(server.address, port=silent.getsockname()[1])
        begin = time.monotonic()
        with pytest.raises(StalledError, match="did not answer for 1 s"):
            GroupConnection("gloo", address, HOST, TIMEOUT_SECONDS)
        assert time.monotonic() - begin < TIMEOUT_SECONDS + 1


@pytest.mark.parametrize("closes", [True, False], ids=["closes", "stalls"])
def test_a_producer_that_stops_while_they_meet(server: GroupServer, closes: bool) -> None:
    done = threading.Event()

    def meet(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        channel = Channel(connection, TIMEOUT_SECONDS)
        channel.receive()
        channel.send(host=HOST, port=0, prefix="")
        if not closes:
            done.wait(10)
        channel.close()

    with socket.create_server((HOST, 0)) as listener:
        thread = threading.Thread(target=meet, args=(listener,))
        thread.start()
        begin = time.monotonic()
        with pytest.raises(LinkError):
            GroupConnection("gloo", replace(server.address, port=listener.getsockname()[1]), HOST, TIMEOUT_SECONDS)
        assert time.monotonic() - begin < 2 * TIMEOUT_SECONDS + 1
        done.set()
        thread.join()


def test_nobody_there(server: GroupServer) -> None:
    server.close()
    with pytest.raises(LinkError, match="no process listens at"):
        GroupConnection("gloo", server.address, HOST, TIMEOUT_SECONDS)


def test_a_link_that_broke_is_made_again_and_one_that_cannot_be_is_told() -> None:
    producer, reader = Gloo(TIMEOUT_SECONDS), Gloo(TIMEOUT_SECONDS)
    producer.open()
    reader.open()
    segment = make_segment([(5, 2), (1, 0)])
    payload = producer.pack(SegmentChunk.whole(segment))
    for _ in range(3):
        assert_equal(join([reader.unpack(payload, expected=SPEC)]), segment)
        for channel in list(producer._open_state.server._listener._channels):
            channel.close()
    producer.close()
    with pytest.raises(TransferError, match="no segment from"):
        reader.unpack(payload, expected=SPEC)
    with pytest.raises(TransferError, match="is closed in this process"):
        producer.pack(SegmentChunk.whole(segment))
    reader.close()


def test_threads_and_descriptors_end_with_their_link(server: GroupServer) -> None:
    before = threading.active_count()
    connection = GroupConnection("gloo", server.address, HOST, TIMEOUT_SECONDS)
    connection.fetch(1, BYTES.numel())
    connection.close()
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before


@pytest.mark.parametrize("num_bytes", [0, 1, 7, 8, 9, 1000, 2**23 + 16])
def test_a_checksum_changes_with_every_byte_and_with_the_order(num_bytes: int) -> None:
    body = torch.randint(0, 256, (num_bytes,), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    total = device_checksum(body)
    assert 0 <= total < 2**64
    assert device_checksum(body.clone()) == total
    for position in {0, num_bytes // 2, num_bytes - 1} if num_bytes else ():
        changed = body.clone()
        changed[position] ^= 1
        assert device_checksum(changed) != total
    if num_bytes >= 16:
        swapped = torch.cat([body[8:16], body[:8], body[16:]])
        assert device_checksum(swapped) != total
        assert device_checksum(torch.cat([body[:1], body])[1:]) == total


def test_a_sum_takes_the_place_of_the_digest() -> None:
    header, body, _ = encode_with_checksum(SegmentChunk.whole(make_segment([(5, 2)])), "cpu", "none")
    total = device_checksum(body)
    decode_with_checksum(header, body, total, expected=SPEC)
    with pytest.raises(WireError, match="the checksum"):
        decode_with_checksum(header, body, total ^ 1, expected=SPEC)
