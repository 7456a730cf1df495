"""The wire format of segment chunks: a msgpack header and the KV bytes. Nothing is unpickled.

A payload has two parts, so that the KV is not copied where a transport can send parts separately:

    header   "LMKV" | u32 length | 16-byte xxh3 of the msgpack | msgpack {version, spec, lengths, …, digest of the body}
    body     the bytes of the KV in the order of its `KVLayout`, or as a codec encodes them

The digest is the xxh3 of the concatenated xxh3s of the body's 16 MiB blocks.

Little-endian throughout.
"""

import os
import struct
import sys
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import msgpack
import numpy as np
import torch
import xxhash
from torch import Tensor

from latentmas_ray.config import CodecName
from latentmas_ray.errors import SegmentError, WireError
from latentmas_ray.memory.chunk import SegmentChunk
from latentmas_ray.memory.codec import CODECS, QuantizedKV, coded_bytes, encode_kv, sampled_error
from latentmas_ray.memory.kv_source import CodecStats, InMemoryKV, KVSource
from latentmas_ray.memory.layer_spec import kept_from_header, kept_to_header
from latentmas_ray.memory.segment import RecomputeInputs, SegmentMeta
from latentmas_ray.memory.spec import KVCacheSpec

VERSION = 4  # version 3 had specs of models whose layers are all alike, and no kept tokens
MAGIC = b"LMKV"
_PREFIX = struct.Struct("<4sI16s")
_BLOCK_BYTES = 16 * 2**20  # the digest is computed per block
_MAX_DIGESTERS = 4
assert sys.byteorder == "little", "the wire format is written for little-endian machines"


def encode_chunk(chunk: SegmentChunk, *, codec: CodecName = "none", with_digest: bool = True) -> tuple[bytes, Tensor]:
    """Return the header, and the body as a flat uint8 tensor on the chunk's device: a view of its bytes, unless a lossy
    codec encodes them.

    Without a digest damage to the body is not detected: for links that move no bytes or check them themselves.
    """
    meta, recompute_inputs = chunk.meta, chunk.recompute_inputs
    if codec == "none":  # works for any layers
        body, error = chunk.kv.buffer(), 0.0
    else:
        kv_LCHTD = chunk.kv_LCHTD
        body = encode_kv(kv_LCHTD, chunk.lengths, codec)
        error = sampled_error(kv_LCHTD, chunk.lengths, codec, meta.spec)
    fields = msgpack.packb(
        {
            "version": VERSION,
            "spec": meta.spec.to_header(),
            "lengths": meta.lengths,
            "turn_starts": meta.turn_starts,
            "offsets": meta.offsets,
            "turn_lengths": meta.turn_lengths,
            "kept": kept_to_header(meta.kept),
            "piece_begins": chunk.begins,
            "piece_lengths": chunk.lengths,
            "recipe_lengths": recompute_inputs.lengths,
            "token_ids": recompute_inputs.token_ids_T.cpu().numpy().tobytes(),
            "latents": raw_bytes(recompute_inputs.latents_NE).tobytes(),
            "codec": codec,
            "relative_error": error,
            "digest": _digest(body) if with_digest else b"",
        }
    )
    return _PREFIX.pack(MAGIC, len(fields), xxhash.xxh3_128_digest(fields)) + fields, body


def decode_chunk(
    header: bytes, body: Tensor, *, expected: KVCacheSpec | None = None, checks_digest: bool = True
) -> SegmentChunk:
    """Return the chunk of a payload; its KV shares the bytes of `body`, which must not change while it is in use.

    `checks_digest=False` is for bytes that were not moved, or were checked before. Raises WireError for a payload that
    is truncated, altered or of another version, IncompatibleMemoryError if the memory's spec is not `expected`.
    """
    fields = _read_header(header)
    spec = KVCacheSpec.from_header(_get(fields, "spec", dict))
    if expected is not None:
        expected.check_same(spec)
    codec, error = _get(fields, "codec", str), _get(fields, "relative_error", float)
    if codec not in CODECS:
        raise WireError(f"the segment's codec is {codec!r}; this program knows {', '.join(CODECS)}")
    begins, lengths = _counts(fields, "piece_begins"), _counts(fields, "piece_lengths")
    try:
        meta = _read_meta(fields, spec)
        layout = meta.layout(begins, lengths)
        if codec != "none":
            layout.require_uniform()
        num_bytes = layout.num_bytes if codec == "none" else coded_bytes(lengths, codec, spec)
    except (SegmentError, ValueError) as reason:
        raise WireError(f"the segment contradicts itself: {reason}") from reason
    if body.numel() != num_bytes:
        kind = "truncated" if body.numel() < num_bytes else "too long"
        raise WireError(f"the segment is {kind}: {body.numel()} bytes of KV, its header says {num_bytes}")
    digest = _get(fields, "digest", bytes)
    if checks_digest and digest and digest != _digest(body):
        raise WireError(f"the segment is damaged: the digest of its {num_bytes} bytes of KV does not match")
    try:
        kv: KVSource
        if codec == "none":
            # A view of wider numbers must begin at a multiple of their size.
            kv = InMemoryKV(layout, body.contiguous() if body.storage_offset() % 4 == 0 else body.clone())
        else:
            kv = QuantizedKV(layout, body, CodecStats(codec, num_bytes, error))
        return SegmentChunk(meta, begins, lengths, kv, _read_recompute_inputs(fields, spec))
    except (SegmentError, RuntimeError, ValueError) as reason:
        raise WireError(f"the segment contradicts itself: {reason}") from reason


def raw_bytes(tensor: Tensor) -> np.ndarray:
    """The bytes of a contiguous tensor as a flat uint8 array; a view for a CPU tensor."""
    flat: np.ndarray = tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy()
    return flat


def from_raw(raw: np.ndarray) -> Tensor:
    """A flat uint8 array, writable or not, as a tensor that shares its bytes."""
    if raw.nbytes == 0:
        return torch.empty(0, dtype=torch.uint8)
    with warnings.catch_warnings():
        # Arrays of the object store are read-only; torch has no read-only tensors and warns. Segments are never
        # written to, and the tensor keeps the array alive.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(raw)


def _digest(body: Tensor) -> bytes:
    """The digest of a body. Blocks are digested in parallel: one core alone is slower than a fast link."""
    raw = raw_bytes(body).data
    blocks = [raw[first : first + _BLOCK_BYTES] for first in range(0, len(raw), _BLOCK_BYTES)]
    in_turn: Callable[..., Iterable[bytes]] = map if len(blocks) < 2 else _digesters().map
    return xxhash.xxh3_128_digest(b"".join(in_turn(xxhash.xxh3_128_digest, blocks)))


@cache
def _digesters() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(_MAX_DIGESTERS, os.cpu_count() or 1), "digest")


def _read_meta(fields: dict[str, Any], spec: KVCacheSpec) -> SegmentMeta:
    counts = {name: _counts(fields, name) for name in ("lengths", "turn_starts", "offsets", "turn_lengths")}
    return SegmentMeta(spec, **counts, kept=kept_from_header(fields.get("kept"), spec.num_layers))


def _read_recompute_inputs(fields: dict[str, Any], spec: KVCacheSpec) -> RecomputeInputs:
    token_ids = torch.frombuffer(bytearray(_get(fields, "token_ids", bytes)) or bytearray(8), dtype=torch.int64)
    latents = from_raw(np.frombuffer(_get(fields, "latents", bytes), np.uint8).copy())
    latents = latents.view(spec.torch_dtype) if latents.numel() else latents.to(spec.torch_dtype)
    lengths = _counts(fields, "recipe_lengths")
    return RecomputeInputs(token_ids[: sum(lengths)], latents.view(-1, spec.hidden_size), lengths)


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
