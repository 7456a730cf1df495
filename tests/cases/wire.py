"""Whole segments as bytes, for tests that hand them over by themselves."""

import struct

import numpy as np

from latentmas_ray.errors import SegmentError, WireError
from latentmas_ray.memory import KVCacheSpec, Segment, SegmentChunk, join
from latentmas_ray.memory.wire import decode_chunk, encode_chunk, from_raw, raw_bytes

PREFIX = struct.Struct("<4sI16s")  # magic, length and digest of what follows in the header


def encode(segment: Segment) -> tuple[bytes, np.ndarray]:
    """The header, and the KV as a flat uint8 array on the segment's bytes."""
    header, body = encode_chunk(SegmentChunk.whole(segment))
    return header, raw_bytes(body)


def decode(header: bytes, kv: np.ndarray, *, expected: KVCacheSpec | None = None) -> Segment:
    """The inverse of `encode`, on the bytes of `kv`."""
    chunk = decode_chunk(header, from_raw(kv), expected=expected)
    try:
        return join([chunk])
    except SegmentError as error:
        raise WireError(f"the segment is not all there: {error}") from error


def to_bytes(segment: Segment) -> bytes:
    """Header and KV as one byte string."""
    header, kv = encode(segment)
    return header + kv.tobytes()


def from_bytes(payload: bytes | bytearray, *, expected: KVCacheSpec | None = None) -> Segment:
    """The inverse of `to_bytes`; what arrives is read where it lies."""
    length = PREFIX.unpack_from(payload)[1] if len(payload) >= PREFIX.size else 0
    kv = np.frombuffer(payload, dtype=np.uint8)[PREFIX.size + length :]
    return decode(bytes(payload[: PREFIX.size + length]), kv, expected=expected)
