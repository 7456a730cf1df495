"""The way from a reader to a producer: who is let in, and what happens when one side stops in the middle."""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import msgpack
import pytest
import torch

from latentmas_ray.authentication import Authenticator, ChunkId, RunKey
from latentmas_ray.errors import LinkError, TransferError, WireError
from latentmas_ray.memory import SegmentChunk, join
from latentmas_ray.memory.wire import encode_chunk, prefix_of
from latentmas_ray.transport import Gloo
from latentmas_ray.transport.channel import Channel, StalledError
from latentmas_ray.transport.gpu.checksum import _weights, decode_with_checksum, device_tag, encode_with_checksum
from latentmas_ray.transport.gpu.connection import GroupConnection, GroupServer
from latentmas_ray.transport.handle_table import HandleTable
from latentmas_ray.transport.listener import Listener
from tests.cases.memory import SPEC, assert_equal, make_segment

HOST = "127.0.0.1"
TIMEOUT_SECONDS = 3.0  # more than a busy machine needs for two sides to meet
PATIENCE_SECONDS = 10.0
SEGMENT = make_segment([(5, 2), (1, 0)])
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
    with pytest.raises(LinkError, match="does not have the key of this run"):
        GroupConnection("gloo", server.address, HOST, TIMEOUT_SECONDS, RunKey.generate())


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
        with pytest.raises(StalledError, match="did not answer for 3 s"):
            GroupConnection("gloo", address, HOST, TIMEOUT_SECONDS)
        assert time.monotonic() - begin < TIMEOUT_SECONDS + PATIENCE_SECONDS


@pytest.mark.parametrize("closes", [True, False], ids=["closes", "stalls"])
def test_a_producer_that_stops_while_they_meet(closes: bool) -> None:
    done = threading.Event()

    def meet(channel: Channel, _: dict[str, Any]) -> None:
        channel.send(host=HOST, port=0, prefix="")
        if not closes:
            done.wait(4 * PATIENCE_SECONDS)

    listener = Listener(HOST, TIMEOUT_SECONDS, meet)
    begin = time.monotonic()
    with pytest.raises(LinkError):
        GroupConnection("gloo", listener.address, HOST, TIMEOUT_SECONDS)
    assert time.monotonic() - begin < 2 * TIMEOUT_SECONDS + PATIENCE_SECONDS
    done.set()
    listener.close()


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
    deadline = time.monotonic() + PATIENCE_SECONDS
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before


AUTH = Authenticator(RunKey(b"k" * 32))
HEADER, _ = encode_chunk(SegmentChunk.whole(make_segment([(5, 2)])), authenticator=AUTH)


@pytest.mark.parametrize("num_bytes", [0, 1, 3, 4, 5, 1000, 2**22 + 7])
def test_a_tag_changes_with_every_byte_and_with_the_order(num_bytes: int) -> None:
    body = torch.randint(0, 256, (num_bytes,), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    tag = device_tag(body, HEADER, AUTH)
    assert len(tag) == 32
    assert device_tag(body.clone(), HEADER, AUTH) == tag
    for position in {0, num_bytes // 2, num_bytes - 1} if num_bytes else ():
        changed = body.clone()
        changed[position] ^= 1
        assert device_tag(changed, HEADER, AUTH) != tag
    if num_bytes >= 8:
        swapped = torch.cat([body[4:8], body[:4], body[8:]])
        assert device_tag(swapped, HEADER, AUTH) != tag
        assert device_tag(torch.cat([body[:1], body])[1:], HEADER, AUTH) == tag
    others = {
        device_tag(torch.cat([body, torch.zeros(1, dtype=torch.uint8)]), HEADER, AUTH),
        device_tag(body, HEADER, Authenticator(RunKey.generate())),
        device_tag(body, encode_chunk(SegmentChunk.whole(SEGMENT), authenticator=AUTH)[0], AUTH),
    }
    assert tag not in others


def test_parts_of_large_bodies_do_not_change_places() -> None:
    body = torch.arange(2**21 + 3, dtype=torch.int32)
    halves = torch.cat([body[2**20 : 2**21], body[: 2**20], body[2**21 :]])
    tags = [device_tag(one.view(torch.uint8), HEADER, AUTH) for one in (body, halves)]
    assert tags[0] != tags[1]


@pytest.mark.slow  # a million weights are sorted
def test_the_sums_are_those_that_are_written_down() -> None:
    """The weights are a secret of the run: without them two bodies with equal sums cannot be found."""
    weights = _weights(AUTH.key, "cpu")
    assert len(weights) == 2
    assert all(len(series.unique()) == len(series) == 2**20 for series in weights)
    assert not torch.equal(weights[0], _weights(RunKey.generate(), "cpu")[0])
    words = [3, -5, 2**31 - 1]
    sums = [sum(w * int(k) for w, k in zip(words, series, strict=False)) % 2**64 for series in weights]
    said = prefix_of(HEADER) + (12).to_bytes(8, "little") + bytes(4) + b"".join(s.to_bytes(8, "little") for s in sums)
    body = torch.tensor(words, dtype=torch.int32).view(torch.uint8)
    assert device_tag(body, HEADER, AUTH) == AUTH.mac("bytes on a device", said)


def test_a_sum_takes_the_place_of_the_tags() -> None:
    """As on a GPU: the header has no tags of the body."""
    chunk = SegmentChunk.whole(SEGMENT)
    header, body = encode_chunk(chunk, with_digest=False, authenticator=AUTH, chunk_id=ChunkId("a"))
    tag = device_tag(body, header, AUTH)
    decode_with_checksum(header, body, tag, AUTH, expected=SPEC, chunk_id=ChunkId("a"))
    for wrong in (bytes(32), tag[:-1], device_tag(body.roll(1), header, AUTH)):
        with pytest.raises(WireError, match="damaged"):
            decode_with_checksum(header, body, wrong, AUTH, expected=SPEC)
    for changed in (body.roll(1), body[:-1], body ^ 1):
        with pytest.raises(WireError):
            decode_with_checksum(header, changed, tag, AUTH, expected=SPEC)
    with pytest.raises(WireError, match="damaged"):
        decode_with_checksum(header, body, None, AUTH, expected=SPEC)
    with pytest.raises(WireError, match="another segment"):
        decode_with_checksum(header, body, tag, AUTH, expected=SPEC, chunk_id=ChunkId("b"))
    header, body, nothing = encode_with_checksum(chunk, "cpu", "none", AUTH)
    assert nothing is None
    decode_with_checksum(header, body, nothing, AUTH, expected=SPEC)
