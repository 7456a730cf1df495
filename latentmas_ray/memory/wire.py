"""Segments as bytes: a msgpack header and the raw KV. Nothing is ever unpickled.

A payload is two pieces, so that the KV needs no copy where pieces can travel side by side:

    header   "LMKV" | u32 length | 16-byte xxh3 of the msgpack | msgpack {version, spec, lengths, …, digest of the KV}
    kv       the bytes of `kv_LCHTD`

`to_bytes` joins them (the header padded to 64 bytes) for a socket or a file of one's own. Little-endian throughout.
"""

import struct
import sys
import warnings
from typing import Any

import msgpack
import numpy as np
import torch
import xxhash
from torch import Tensor

from latentmas_ray.errors import SegmentError, WireError
from latentmas_ray.memory.segment import Recipe, Segment
from latentmas_ray.memory.spec import KVCacheSpec

VERSION = 1
MAGIC = b"LMKV"
_PREFIX = struct.Struct("<4sI16s")
_ALIGNMENT = 64
assert sys.byteorder == "little", "the wire format is written for little-endian machines"


def encode(segment: Segment) -> tuple[bytes, np.ndarray]:
    """The header, and the KV as a flat uint8 array (a view of the segment's bytes where it lies on the CPU)."""
    kv = raw_bytes(segment.kv_LCHTD)
    recipe = segment.recipe
    body = msgpack.packb(
        {
            "version": VERSION,
            "spec": segment.spec.to_header(),
            "lengths": segment.lengths,
            "turn_starts": segment.turn_starts,
            "offsets": segment.offsets,
            "recipe_lengths": recipe.lengths,
            "token_ids": recipe.token_ids_T.cpu().numpy().tobytes(),
            "latents": raw_bytes(recipe.latents_NE).tobytes(),
            "kv_digest": xxhash.xxh3_128_digest(kv.data),
        }
    )
    return _PREFIX.pack(MAGIC, len(body), xxhash.xxh3_128_digest(body)) + body, kv


def decode(header: bytes, kv: np.ndarray, *, expected: KVCacheSpec | None = None, verify: bool = True) -> Segment:
    """The segment of a payload; its KV shares the bytes of `kv`, which must not change as long as it is used.

    `verify=False` skips the digest of the KV where the link checks its bytes itself; the header is always checked.
    Raises WireError for a payload that is truncated, altered or of another version, IncompatibleMemoryError if
    `expected` is given and the memory is of another model.
    """
    fields = _read_header(header)
    spec = KVCacheSpec.from_header(_get(fields, "spec", dict))
    if expected is not None:
        expected.check_same(spec)
    lengths = _counts(fields, "lengths")
    num_bytes = sum(lengths) * spec.bytes_per_token
    if kv.nbytes != num_bytes:
        kind = "truncated" if kv.nbytes < num_bytes else "too long"
        raise WireError(f"the segment is {kind}: {kv.nbytes} bytes of KV, its header says {num_bytes}")
    if verify and xxhash.xxh3_128_digest(kv.data) != _get(fields, "kv_digest", bytes):
        raise WireError(f"the segment is damaged: the digest of its {num_bytes} bytes of KV does not match")
    try:
        token_ids = torch.frombuffer(bytearray(_get(fields, "token_ids", bytes)) or bytearray(8), dtype=torch.int64)
        recipe_lengths = _counts(fields, "recipe_lengths")
        latents = _from_raw(np.frombuffer(_get(fields, "latents", bytes), np.uint8).copy(), spec.torch_dtype)
        shape = (spec.num_layers, 2, spec.num_kv_heads, sum(lengths), spec.head_dim)
        return Segment(
            spec,
            _from_raw(kv, spec.torch_dtype).view(shape),
            lengths,
            _counts(fields, "turn_starts"),
            _counts(fields, "offsets"),
            Recipe(token_ids[: sum(recipe_lengths)], latents.view(-1, spec.hidden_size), recipe_lengths),
        )
    except (SegmentError, RuntimeError, ValueError) as error:
        raise WireError(f"the segment contradicts itself: {error}") from error


def to_bytes(segment: Segment) -> bytes:
    """Header and KV as one byte string. Copies the KV."""
    header, kv = encode(segment)
    return header + bytes(-len(header) % _ALIGNMENT) + kv.tobytes()


def from_bytes(payload: bytes | bytearray | memoryview, *, expected: KVCacheSpec | None = None) -> Segment:
    """The inverse of `to_bytes`; raises like `decode`."""
    view = memoryview(payload).cast("B")
    stop = _PREFIX.size + _read_prefix(view)[0]
    first = stop + -stop % _ALIGNMENT
    if len(view) < first or any(view[stop:first]):
        raise WireError(f"the payload is truncated or damaged: its KV should begin at byte {first} of {len(view)}")
    return decode(bytes(view[:stop]), np.frombuffer(view[first:], dtype=np.uint8), expected=expected)


def raw_bytes(tensor: Tensor) -> np.ndarray:
    """The bytes of a contiguous tensor as a flat uint8 array; a view if it lies on the CPU."""
    flat: np.ndarray = tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy()
    return flat


def _from_raw(raw: np.ndarray, dtype: torch.dtype) -> Tensor:
    if raw.nbytes == 0:
        return torch.empty(0, dtype=dtype)
    with warnings.catch_warnings():
        # The object store hands out read-only pages, torch has no read-only tensors and warns. Nobody writes to a
        # segment, and the tensor keeps the array alive.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(raw).view(dtype)


def _read_prefix(payload: bytes | memoryview) -> tuple[int, bytes]:
    if len(payload) < _PREFIX.size:
        raise WireError(f"the header is truncated: {len(payload)} bytes, its prefix alone takes {_PREFIX.size}")
    magic, length, digest = _PREFIX.unpack_from(payload)
    if magic != MAGIC:
        raise WireError(f"not a segment: the payload begins with {magic!r}, not {MAGIC!r}")
    return length, digest


def _read_header(header: bytes) -> dict[str, Any]:
    length, digest = _read_prefix(header)
    body = header[_PREFIX.size :]
    if len(body) != length:
        raise WireError(f"the header is truncated: {len(body)} of {length} bytes")
    if xxhash.xxh3_128_digest(body) != digest:
        raise WireError("the header is damaged: its digest does not match")
    try:
        fields = msgpack.unpackb(body, strict_map_key=True)
    except (ValueError, msgpack.UnpackException) as error:
        raise WireError(f"the header is not msgpack: {error}") from error
    if not isinstance(fields, dict):
        raise WireError("the header is not a mapping")
    if fields.get("version") != VERSION:
        raise WireError(f"segment version {fields.get('version')!r}; this program reads version {VERSION}")
    return fields


def _get(fields: dict[str, Any], name: str, kind: type) -> Any:
    value = fields.get(name)
    if not isinstance(value, kind):
        raise WireError(f"the header's {name} is {type(value).__name__}, not {kind.__name__}")
    return value


def _counts(fields: dict[str, Any], name: str) -> tuple[int, ...]:
    values = _get(fields, name, list)
    if not all(type(value) is int and value >= 0 for value in values):
        raise WireError(f"the header's {name} must be whole numbers of at least 0: {values!r}")
    return tuple(values)
