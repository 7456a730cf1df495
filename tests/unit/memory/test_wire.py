"""Segments as bytes: nothing is lost, and nothing that is damaged, foreign or contradictory is accepted."""

import pickle
import tracemalloc
import warnings
from dataclasses import replace
from typing import Any

import msgpack
import numpy as np
import pytest
import torch
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from latentmas_ray.errors import IncompatibleMemoryError, WireError
from latentmas_ray.memory import Segment, SegmentChunk
from latentmas_ray.memory.wire import VERSION, decode_chunk, encode_chunk
from tests.cases.memory import SPEC, assert_equal, make_segment, segments, spec_of
from tests.cases.wire import PREFIX, decode, encode, from_bytes, to_bytes

SMALL = make_segment([(1, 1), (2, 0)], turn_starts=[3, 4])


def forged(changes: dict[str, Any]) -> tuple[bytes, np.ndarray]:
    """A payload of `SMALL` with other header fields (None removes one), and digests that are right for them."""
    header, kv = encode(SMALL)
    fields = {**msgpack.unpackb(header[PREFIX.size :]), **changes}
    body = msgpack.packb({name: value for name, value in fields.items() if value is not None})
    return PREFIX.pack(b"LMKV", len(body), xxhash.xxh3_128_digest(body)) + body, kv


@given(segments())
def test_bytes_there_and_back(segment: Segment) -> None:
    assert_equal(from_bytes(to_bytes(segment), expected=segment.spec), segment)


@given(segments())
def test_chunks_there_and_back(segment: Segment) -> None:
    header, kv = encode(segment)
    assert kv.dtype == np.uint8
    assert kv.shape == (segment.meta.num_bytes,)
    assert_equal(decode(header, kv), segment)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_bit_pattern_passes(dtype: str) -> None:
    segment = make_segment([(4, 1)], spec=spec_of(dtype))
    kv = segment.kv_LCHTD.view(-1)
    for index, value in enumerate([float("nan"), float("inf"), -float("inf"), -0.0]):
        kv[index] = value
    back = from_bytes(to_bytes(segment))
    assert torch.equal(back.kv_LCHTD.view(torch.uint8), segment.kv_LCHTD.view(torch.uint8))


def test_equal_segments_are_equal_bytes() -> None:
    assert to_bytes(SMALL) == to_bytes(make_segment([(1, 1), (2, 0)], turn_starts=[3, 4]))


def test_every_flipped_bit_is_noticed() -> None:
    payload = to_bytes(SMALL)
    for bit in range(8 * len(payload)):
        damaged = bytearray(payload)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(WireError):
            from_bytes(damaged)


@pytest.mark.parametrize("turns", [[(1, 1), (2, 0)], [(0, 0)]])
def test_every_truncation_is_noticed(turns: list[tuple[int, int]]) -> None:
    payload = to_bytes(make_segment(turns))
    for length in range(len(payload)):
        with pytest.raises(WireError):
            from_bytes(payload[:length])


def test_chunks_are_checked_like_bytes() -> None:
    header, kv = encode(SMALL)
    with pytest.raises(WireError, match="truncated"):
        decode(header[:-1], kv)
    with pytest.raises(WireError, match="truncated"):
        decode(header[:10], kv)
    with pytest.raises(WireError, match="truncated"):
        decode(header, kv[:-1])
    with pytest.raises(WireError, match="too long"):
        decode(header, np.append(kv, kv[:1]))
    with pytest.raises(WireError, match="digest"):
        decode(header, np.roll(kv, 1))


def test_without_a_digest_only_the_header_is_checked() -> None:
    header, body = encode_chunk(SegmentChunk.whole(SMALL), with_digest=False)
    assert decode_chunk(header, body.roll(1)).lengths == SMALL.lengths
    with pytest.raises(WireError):
        decode_chunk(header[:-1] + b"\1", body)


@given(st.binary(max_size=200))
def test_garbage_is_refused(garbage: bytes) -> None:
    with pytest.raises(WireError):
        from_bytes(garbage)
    with pytest.raises(WireError):
        from_bytes(PREFIX.pack(b"LMKV", len(garbage), xxhash.xxh3_128_digest(garbage)) + garbage)


@pytest.mark.parametrize(
    "bad_body", [b"\xc1", b"\x92\x01", b"\x01", b"\x80", b"\x81\x01\x02", b"\x91" * 2000 + b"\x01"]
)
def test_a_body_that_is_no_header_is_refused(bad_body: bytes) -> None:
    header = PREFIX.pack(b"LMKV", len(bad_body), xxhash.xxh3_128_digest(bad_body)) + bad_body
    with pytest.raises(WireError):
        decode(header, np.zeros(0, np.uint8))


class Bomb:
    """Would be executed by whoever unpickles it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a payload was unpickled",))


def test_nothing_is_unpickled() -> None:
    with pytest.raises(WireError, match="not a segment"):
        from_bytes(pickle.dumps(Bomb()))
    body = pickle.dumps(Bomb())
    with pytest.raises(WireError):
        from_bytes(PREFIX.pack(b"LMKV", len(body), xxhash.xxh3_128_digest(body)) + body)
    with pytest.raises(WireError):
        decode(*forged({"spec": body}))


@pytest.mark.parametrize("version", [VERSION + 1, VERSION - 1, "1", 1.5, None])
def test_another_version_is_named(version: object) -> None:
    with pytest.raises(WireError, match=f"version.*reads version {VERSION}"):
        decode(*forged({"version": version}))


def test_memory_of_another_model_is_told_before_its_bytes_are_looked_at() -> None:
    header, kv = encode(SMALL)
    other = replace(SPEC, weights_revision="r1")
    with pytest.raises(IncompatibleMemoryError, match="weights_revision is 'r0', not 'r1'"):
        decode(header, kv[:0], expected=other)
    with pytest.raises(IncompatibleMemoryError, match="weights_revision"):
        from_bytes(to_bytes(SMALL), expected=other)


CONTRADICTIONS: dict[str, dict[str, Any]] = {
    "fewer tokens": {"lengths": [2, 1]},
    "more tokens": {"lengths": [2, 3]},
    "fewer tokens in the piece": {"piece_lengths": [2, 1]},
    "a chunk that begins late": {"piece_begins": [1, 0]},
    "a chunk of one question": {"piece_begins": [0]},
    "a longer turn": {"turn_lengths": [3, 2]},
    "a shorter turn": {"turn_lengths": [1, 2]},
    "other questions": {"lengths": [4]},
    "one start": {"turn_starts": [3]},
    "negative start": {"turn_starts": [-3, 4]},
    "offset behind the turn": {"offsets": [1, 0]},
    "fractional length": {"lengths": [2.0, 2]},
    "boolean length": {"lengths": [True, 3]},
    "length as text": {"lengths": ["2", 2]},
    "no lengths": {"lengths": None},
    "lengths as a number": {"lengths": 4},
    "recipe too short": {"recipe_lengths": [1, 2]},
    "recipe too long": {"recipe_lengths": [2, 20]},
    "half a token id": {"token_ids": b"\0" * 31},
    "a token id less": {"token_ids": b"\0" * 24},
    "token ids without thoughts": {"token_ids": b"\0" * 32},
    "no latents": {"latents": b""},
    "half a latent": {"latents": b"\0" * 12},
    "odd bytes of latents": {"latents": b"\0" * 23},
    "latents as text": {"latents": "\0" * 24},
    "spec as a list": {"spec": []},
    "digest as text": {"digest": "0" * 16},
    "kept tokens of one layer": {"kept": [[[[[0, 2]], [[0, 2]]], 1]]},
    "kept tokens of one question": {"kept": [[[[[0, 2]]], 2]]},
    "more kept tokens than there are": {"kept": [[[[[0, 2]], [[0, 3]]], 2]]},
    "fewer kept tokens than came": {"kept": [[[[[0, 1]], [[0, 2]]], 2]]},
    "kept tokens twice": {"kept": [[[[[0, 2], [1, 2]], [[0, 2]]], 2]]},
    "kept tokens of countless layers": {"kept": [[[[[0, 2]], [[0, 2]]], 2**60]]},
    "kept tokens as a number": {"kept": 2},
    "huge lengths": {"lengths": [2**63, 2**63]},
    "huge starts that do not fit": {"recipe_lengths": [2**64 - 1, 2]},
}


@pytest.mark.parametrize("changes", CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_a_header_that_contradicts_itself_is_refused_whatever_its_digest_says(changes: dict[str, Any]) -> None:
    with pytest.raises(WireError):
        decode(*forged(changes))


def spec_header(field: str, value: int) -> dict[str, Any]:
    header = SPEC.to_header()
    if field == "num_layers":
        header["layers"] = [[0, value]]
    elif field in header:
        header[field] = value
    else:
        for tensor in header["layer_kinds"][0]:
            tensor[field] = value
    return header


@pytest.mark.parametrize("field", ["num_layers", "num_heads", "head_dim", "hidden_size"])
@pytest.mark.parametrize("value", [3, 2**31, 2**63, 2**64 - 1])
def test_another_shape_is_refused(field: str, value: int) -> None:
    with pytest.raises(WireError):
        decode(*forged({"spec": spec_header(field, value)}))


@pytest.mark.parametrize("field", ["num_layers", "num_heads", "head_dim"])
def test_a_huge_shape_of_no_token_is_refused(field: str) -> None:
    empty = {"lengths": [0, 0], "piece_lengths": [0, 0], "digest": xxhash.xxh3_128_digest(b"")}
    header, kv = forged({**empty, "spec": spec_header(field, 2**64 - 1)})
    with pytest.raises(WireError):
        decode(header, kv[:0])


def test_lengths_that_lie_allocate_nothing() -> None:
    header, kv = forged(
        {name: [2**40, 2**40] for name in ("lengths", "piece_lengths", "turn_lengths", "recipe_lengths")}
    )
    long_header = PREFIX.pack(b"LMKV", 2**32 - 1, bytes(16))
    tracemalloc.start()
    try:
        for attempt in (lambda: decode(header, kv), lambda: from_bytes(long_header + bytes(100))):
            with pytest.raises(WireError):
                attempt()
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_read_only_pages_are_used_as_they_are() -> None:
    header, kv = encode(SMALL)
    pages = kv.copy()
    pages.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        segment = decode(header, pages)
    assert segment.kv_LCHTD.data_ptr() == pages.ctypes.data
    assert_equal(segment, SMALL)


def test_encoding_copies_no_kv() -> None:
    assert encode(SMALL)[1].ctypes.data == SMALL.kv_LCHTD.data_ptr()


def test_the_bytes_stay_alive_as_long_as_the_segment() -> None:
    header, kv = encode(make_segment([(500, 3)]))
    pages = kv.copy()
    segment = decode(header, pages)
    del pages
    assert_equal(segment, make_segment([(500, 3)]))
