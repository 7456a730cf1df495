"""What was altered, repeated, cut, or made by somebody else is refused, by every transport that works on a CPU."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import msgpack
import numpy as np
import pytest
import torch
import xxhash

import latentmas_ray.authentication as authentication
from latentmas_ray.authentication import ChunkId, RunKey
from latentmas_ray.errors import LatentMASError, SegmentError, TransferError
from latentmas_ray.memory import Segment, SegmentChunk, join
from latentmas_ray.memory.wire import encode_chunk, raw_bytes
from latentmas_ray.transport import Gloo, Loopback, ObjectStore, SharedMemory, Tcp, Transport, find_available
from tests.cases.memory import SPEC, assert_equal, cut, make_segment
from tests.cases.wire import PREFIX

KEY, OTHER_KEY = RunKey(b"k" * 32), RunKey(b"o" * 32)
SEGMENT, OLDER = make_segment([(50, 3), (20, 0)]), make_segment([(50, 3), (20, 0)], seed=1)
ID, OLDER_ID = ChunkId("now"), ChunkId("before")
BLOCK = 512  # so that these small segments have several blocks

MAKERS: dict[str, Callable[[], Transport]] = {
    "object_store": ObjectStore,
    "object_store within a node": lambda: ObjectStore().within_one_node(),
    "shared_memory": SharedMemory,
    "tcp": lambda: Tcp(5.0, shares_memory=False),
    "tcp within a node": lambda: Tcp(5.0),
    "gloo": lambda: Gloo(5.0),
    "loopback": lambda: Loopback().within_one_actor(),
}
CHECKS_BYTES = ("object_store", "tcp", "gloo")  # elsewhere they do not move, and the system protects them


@dataclass
class Ends:
    """Two processes of a run, and one of another run, as far as a transport knows."""

    name: str
    producer: Transport
    reader: Transport
    stranger: Transport

    def read(self, payload: Any, chunk_id: ChunkId | None = ID) -> SegmentChunk:
        return self.reader.unpack(payload, expected=SPEC, chunk_id=chunk_id)


@pytest.fixture(scope="module", params=list(MAKERS))
def ends(request: pytest.FixtureRequest) -> Iterator[Ends]:
    make = MAKERS[request.param]
    if (needs := make().capabilities.needs) is not None and needs not in find_available():
        pytest.skip(f"{needs} is not here")
    producer, stranger = make(), make()
    reader = producer if request.param == "loopback" else make()
    for transport, key in ((producer, KEY), (reader, KEY), (stranger, OTHER_KEY)):
        if transport is not reader or reader is not producer:
            transport.open(key)
    if reader is producer:
        producer.open(KEY)
    yield Ends(request.param, producer, reader, stranger)
    for transport in {producer, reader, stranger}:
        transport.close()


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authentication, "BLOCK_BYTES", BLOCK)


def header_of(payload: Any) -> bytes | None:
    return payload[0] if isinstance(payload, tuple) else getattr(payload, "header", None)


def with_header(payload: Any, header: bytes) -> Any:
    return (header, *payload[1:]) if isinstance(payload, tuple) else replace(payload, header=header)


def unsigned(segment: Segment) -> bytes:
    """The header of the form that has no tags, which everybody can make."""
    return encode_chunk(SegmentChunk.whole(segment))[0]


def renamed(header: bytes) -> Iterator[bytes]:
    """The header with other fields, under the old tag."""
    start = PREFIX.size + 40
    known = msgpack.unpackb(header[start:])
    for name in known:
        changed = msgpack.packb({**known, name: 1 if known[name] != 1 else 2})
        yield header[:4] + len(changed).to_bytes(4, "little") + header[8:start] + changed
        fewer = msgpack.packb({key: value for key, value in known.items() if key != name})
        yield header[:4] + len(fewer).to_bytes(4, "little") + header[8:start] + fewer


def altered_headers(header: bytes, other: bytes, foreign: bytes) -> Iterator[bytes]:
    for position in [*range(PREFIX.size + 40), *range(PREFIX.size + 40, len(header), 37), len(header) - 1]:
        yield header[:position] + bytes([header[position] ^ (1 << position % 8)]) + header[position + 1 :]
    for length in (0, 3, PREFIX.size, PREFIX.size + 39, PREFIX.size + 40, len(header) - 1):
        yield header[:length]
    yield from (
        header + b"\0",
        header + header,
        other,
        foreign,
        unsigned(SEGMENT),
        unsigned(OLDER),
        b"LMKV" + header[4:],
    )
    body = header[PREFIX.size + 40 :]
    yield PREFIX.pack(b"LMKV", len(body), xxhash.xxh3_128_digest(body)) + body
    for first, last in ((0, 24), (24, 64), (8, 24), (40, 64), (24, 40)):  # parts of another header
        yield header[:first] + other[first:last] + header[last:]
    yield from renamed(header)


def altered_values(value: Any, other: Any) -> Iterator[Any]:
    """Other values for a field of a handle."""
    yield from (None, other) if value != other else (None,)
    match value:
        case bool():
            yield not value
        case int():
            yield from (value + 1, -1, 2**63, 2**70, str(value), "../tmp/x", float(value), True)
        case bytes():
            yield from (b"", bytes(len(value)), value + b"\0", value[:-1], str(value), bytearray(value), [1])
        case str():
            yield from ("", value + "x", "../tmp/x", value.encode(), 1)
        case _ if hasattr(value, "__dataclass_fields__"):
            for field in fields(value):
                for changed in altered_values(getattr(value, field.name), getattr(other, field.name, None)):
                    yield replace(value, **{field.name: changed})
            yield from ((), {}, 7)


def altered_payloads(payload: Any, older: Any, foreign: Any) -> Iterator[Any]:
    if isinstance(payload, tuple):
        header, body = payload
        yield from ((header,), (header, body, body), (body, header), header, None, (header, body.tobytes()), {})
        yield from ((header, body.view(np.float32)), (header, body[:-1]), (header, np.append(body, body[:1])))
        yield from ((header, body[:0]), (header, np.append(body, body)), foreign, older)
    else:
        for field in fields(payload):
            for value in altered_values(getattr(payload, field.name), getattr(older, field.name)):
                if value != getattr(payload, field.name):
                    yield replace(payload, **{field.name: value})
        yield from (foreign, older, None, (), {}, 7, replace(foreign, tag=payload.tag), replace(older, tag=payload.tag))
    if (header := header_of(payload)) is not None:
        other, strange = header_of(older), header_of(foreign)
        assert other is not None
        assert strange is not None
        changed = [one for one in altered_headers(header, other, strange) if one != header]
        yield from (with_header(payload, one) for one in changed)


def refusal_of(ends: Ends, payload: Any) -> Exception | None:
    try:
        ends.read(payload)
    except Exception as error:  # noqa: BLE001  the test looks at its kind
        return error
    return None


def test_altered_payloads_are_refused(ends: Ends) -> None:
    payload = ends.producer.pack(SegmentChunk.whole(SEGMENT), ID)
    older = ends.producer.pack(SegmentChunk.whole(OLDER), OLDER_ID)
    foreign = ends.stranger.pack(SegmentChunk.whole(SEGMENT), ID)
    count = 0
    for altered in altered_payloads(payload, older, foreign):
        refusal = refusal_of(ends, altered)
        assert isinstance(refusal, SegmentError | TransferError), f"{refusal!r}: {altered!r:.300}"
        assert "\n" not in str(refusal)
        count += 1
    assert count >= (20 if ends.name == "loopback" else 150)
    assert_equal(join([ends.read(payload)]), SEGMENT)
    assert_equal(join([ends.read(older, OLDER_ID)]), OLDER)


def stored_bytes(ends: Ends, payload: Any) -> torch.Tensor:
    """The bytes that the producer sends, to be altered as somebody on the way could."""
    if ends.name == "object_store":
        return torch.from_numpy(payload[1])
    state: Any = ends.producer._open_state  # type: ignore[attr-defined]
    return state.bodies.get(payload.number) if ends.name == "gloo" else state.store._stored[payload.key.token].body


def altered_bytes(body: np.ndarray, older: np.ndarray) -> Iterator[np.ndarray]:
    for position in [*range(0, len(body), len(body) // 60), len(body) - 1]:
        changed = body.copy()
        changed[position] ^= 1 << position % 8
        yield changed
    last = len(body) // BLOCK - 1
    for one, two in ((0, 1), (1, 2), (0, last)):  # blocks that changed places
        blocks = [body[first : first + BLOCK] for first in range(0, len(body), BLOCK)]
        blocks[one], blocks[two] = blocks[two], blocks[one]
        yield np.concatenate(blocks)
    for block in range(last):  # blocks of an older segment at the same place
        changed = body.copy()
        changed[block * BLOCK : (block + 1) * BLOCK] = older[block * BLOCK : (block + 1) * BLOCK]
        yield changed
    yield from (np.zeros_like(body), np.roll(body, 1), np.roll(body, BLOCK), body[::-1].copy(), older)


@pytest.mark.parametrize("ends", CHECKS_BYTES, indirect=True)
def test_altered_bytes_are_refused(ends: Ends) -> None:
    payload = ends.producer.pack(SegmentChunk.whole(SEGMENT), ID)
    stored = stored_bytes(ends, payload)
    true, older = stored.numpy().copy(), raw_bytes(OLDER.kv_LCHTD)
    count = 0
    for changed in altered_bytes(true, older):
        stored.numpy()[:] = changed
        with pytest.raises(SegmentError, match="damaged") as refused:
            ends.read(payload)
        assert "\n" not in str(refused.value)
        count += 1
    assert count >= 70
    stored.numpy()[:] = true
    assert_equal(join([ends.read(payload)]), SEGMENT)


def test_only_the_chunk_that_was_asked_for_is_taken(ends: Ends) -> None:
    """Older segments, and chunks of one segment that changed places, have right tags."""
    chunks = cut(SEGMENT, [50, 20])
    payloads = [ends.producer.pack(chunk, ChunkId("now", index)) for index, chunk in enumerate(chunks)]
    unnamed = ends.producer.pack(SegmentChunk.whole(SEGMENT))
    for asked in (ChunkId("now", 1), ChunkId("before", 0), ChunkId("", 0), ChunkId("no", 0), ChunkId("now ", 0)):
        with pytest.raises(SegmentError, match="another segment than the one that was asked for"):
            ends.read(payloads[0], asked)
    with pytest.raises(SegmentError, match="another segment"):
        ends.read(payloads[1], ChunkId("now", 0))
    with pytest.raises(SegmentError, match="another segment"):
        ends.read(unnamed)
    assert_equal(join([ends.read(payloads[index], ChunkId("now", index)) for index in (0, 1)]), SEGMENT)
    assert_equal(join([ends.read(unnamed, None)]), SEGMENT)


@pytest.mark.parametrize("ends", ["shared_memory", "tcp within a node"], indirect=True)
def test_nobody_else_writes_bytes_that_have_no_tags(ends: Ends) -> None:
    payload = ends.producer.pack(SegmentChunk.whole(SEGMENT), ID)
    address = payload.address if isinstance(ends.producer, SharedMemory) else payload.key.address
    path = f"/proc/{address.pid}/fd/{address.fd}"
    for flags in (os.O_RDWR, os.O_RDWR | os.O_TRUNC):
        with pytest.raises(PermissionError):  # noqa: PT012
            fd = os.open(path, flags)
            try:
                os.pwrite(fd, b"x", 5000)
            finally:
                os.close(fd)
    assert_equal(join([ends.read(payload)]), SEGMENT)


def assert_none_is_refused(ends: Ends, count: int) -> None:
    segments = [make_segment([(1 + seed % 5, seed % 3)], seed=seed) for seed in range(20)]
    for number in range(count):
        segment, chunk_id = segments[number % len(segments)], ChunkId(str(number), number % 4)
        payload = ends.producer.pack(SegmentChunk.whole(segment), chunk_id)
        try:
            assert ends.read(payload, chunk_id).meta == segment.meta
        except LatentMASError as error:
            pytest.fail(f"segment {number}: {error}")
        ends.producer.release(payload)
        ends.reader.release(payload)


def test_honest_segments_are_never_refused(ends: Ends) -> None:
    assert_none_is_refused(ends, 500)


@pytest.mark.slow
@pytest.mark.parametrize("ends", ["object_store", "tcp"], indirect=True)
def test_ten_thousand_honest_segments_are_never_refused(ends: Ends) -> None:
    assert_none_is_refused(ends, 10_000)


def test_inputs_are_read_without_the_bytes_and_checked_like_them(ends: Ends) -> None:
    payload = ends.producer.pack(SegmentChunk.whole(SEGMENT), ID)
    found = ends.reader.unpack_inputs(payload, chunk_id=ID)
    assert found.meta == SEGMENT.meta
    assert found.num_bytes == 0
    assert torch.equal(found.recompute_inputs.token_ids_T, SEGMENT.recompute_inputs.token_ids_T)
    assert torch.equal(found.recompute_inputs.latents_NE, SEGMENT.recompute_inputs.latents_NE)
    with pytest.raises((SegmentError, TransferError)):
        ends.reader.unpack_inputs(payload, chunk_id=OLDER_ID)
    with pytest.raises((SegmentError, TransferError)):
        ends.stranger.unpack_inputs(payload, chunk_id=ID)
    header = header_of(payload)
    for forged in () if header is None else (*renamed(header), unsigned(SEGMENT)):
        with pytest.raises((SegmentError, TransferError)):
            ends.reader.unpack_inputs(with_header(payload, forged), chunk_id=ID)
    ends.producer.release(payload)
