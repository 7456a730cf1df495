"""The wire format of segment chunks: a msgpack header and the KV bytes. Nothing is unpickled.

A payload has two parts, so that the KV is not copied where a transport can send parts separately:

    header   "LMKV" | u32 length | 16-byte xxh3 of the msgpack | msgpack {version, spec, lengths, …, digest of the body}
      or     "LMKA" | u32 length | 16-byte tag | run id | writer | u64 number | msgpack {…, tags of the body's blocks}
    body     the bytes of the KV in the order of its `KVLayout`, or as a codec encodes them

Between the processes of a run a chunk is authenticated (`authentication`): the header's tag covers all of the header,
and so the run, the segment, the chunk's place in it, and the tags of the body's 16 MiB blocks. The other form is for
bytes that do not leave a process, or that something else protects. Its digest is the xxh3 of the concatenated xxh3s of
the blocks, and detects accidents only.

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

from latentmas_ray.authentication import BLOCK_BYTES, HEADER_BLOCK, Authenticator, ChunkId, Stamp, is_equal
from latentmas_ray.config import CodecName
from latentmas_ray.errors import SegmentError, WireError
from latentmas_ray.memory.chunk import SegmentChunk
from latentmas_ray.memory.codec import CODECS, QuantizedKV, coded_layout_bytes, encode
from latentmas_ray.memory.kv_source import CodecStats, InMemoryKV, KVSource
from latentmas_ray.memory.layer_spec import kept_from_header, kept_to_header
from latentmas_ray.memory.segment import RecomputeInputs, SegmentMeta
from latentmas_ray.memory.spec import KVCacheSpec

VERSION = 7  # version 6 had no states
MAGIC, SIGNED_MAGIC = b"LMKV", b"LMKA"
_PREFIX = struct.Struct("<4sI16s")
_STAMP = struct.Struct("<16s16sQ")  # follows the prefix of an authenticated header: run, writer, number
_MAX_DIGESTERS = 4
assert sys.byteorder == "little", "the wire format is written for little-endian machines"


def encode_chunk(
    chunk: SegmentChunk,
    *,
    codec: CodecName = "none",
    with_digest: bool = True,
    authenticator: Authenticator | None = None,
    chunk_id: ChunkId | None = None,
) -> tuple[bytes, Tensor]:
    """Return the header, and the body as a flat uint8 tensor on the chunk's device: a view of its bytes, unless a lossy
    codec encodes them.

    With an `authenticator` the header has a tag, and names the chunk `chunk_id`. `with_digest=False` leaves out the
    body's digest or tags: for links that move no bytes or check them themselves.
    """
    meta, recompute_inputs = chunk.meta, chunk.recompute_inputs
    body, error = encode(chunk.kv, codec)
    chunk_id = chunk_id or ChunkId()
    stamp = None if authenticator is None else authenticator.new_stamp()
    fields = msgpack.packb(
        {
            "version": VERSION,
            "spec": meta.spec.to_header(),
            "lengths": meta.lengths,
            "turn_starts": meta.turn_starts,
            "offsets": meta.offsets,
            "turn_lengths": meta.turn_lengths,
            "kept": kept_to_header(meta.kept),
            "open": meta.is_open,
            "piece_begins": chunk.begins,
            "piece_lengths": chunk.lengths,
            "recipe_lengths": recompute_inputs.lengths,
            "token_ids": recompute_inputs.token_ids_T.cpu().numpy().tobytes(),
            "latents": raw_bytes(recompute_inputs.latents_NE).tobytes(),
            "codec": codec,
            "relative_error": error,
            "segment": chunk_id.segment,
            "chunk": chunk_id.index,
            "digest": _digest(body, authenticator, stamp) if with_digest else b"",
        }
    )
    return _add_prefix(fields, authenticator, stamp), body


def decode_chunk(
    header: bytes,
    body: Tensor,
    *,
    expected: KVCacheSpec | None = None,
    checks_digest: bool = True,
    authenticator: Authenticator | None = None,
    chunk_id: ChunkId | None = None,
) -> SegmentChunk:
    """Return the chunk of a payload; its KV shares the bytes of `body`, which must not change while it is in use.

    With an `authenticator` the header must have a tag of its run, with `chunk_id` it must be that chunk's.
    `checks_digest=False` is for bytes that were not moved, or were checked before; otherwise an authenticated chunk
    must have tags of its body. Raises WireError for a payload that is truncated, altered, of another version, run or
    chunk, IncompatibleMemoryError if the memory's spec is not `expected`.
    """
    fields, stamp = _read_header(header, authenticator)
    check_chunk_id(ChunkId(_get(fields, "segment", str), _get(fields, "chunk", int)), chunk_id)
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
            layout.require_even()
        num_bytes = coded_layout_bytes(layout, codec)
    except (SegmentError, ValueError) as reason:
        raise WireError(f"the segment contradicts itself: {reason}") from reason
    if body.numel() != num_bytes:
        kind = "truncated" if body.numel() < num_bytes else "too long"
        raise WireError(f"the segment is {kind}: {body.numel()} bytes of KV, its header says {num_bytes}")
    digest = _get(fields, "digest", bytes)
    if checks_digest:
        _check_digest(digest, body, authenticator, stamp)
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


def decode_inputs(
    header: bytes, *, authenticator: Authenticator | None = None, chunk_id: ChunkId | None = None
) -> SegmentChunk:
    """Return the chunk of a header without its KV: its meta data and recompute inputs, which need no body. Raises
    WireError like `decode_chunk`."""
    fields, _ = _read_header(header, authenticator)
    check_chunk_id(ChunkId(_get(fields, "segment", str), _get(fields, "chunk", int)), chunk_id)
    spec = KVCacheSpec.from_header(_get(fields, "spec", dict))
    try:
        return SegmentChunk.without_kv(_read_meta(fields, spec), _read_recompute_inputs(fields, spec))
    except (SegmentError, RuntimeError, ValueError) as reason:
        raise WireError(f"the segment contradicts itself: {reason}") from reason


def add_tags(header: bytes, body: Tensor, authenticator: Authenticator, chunk_id: ChunkId) -> bytes:
    """Return the authenticated form of a header that has none, for a payload that leaves this process. Raises
    WireError."""
    fields, _ = _read_header(header, None)
    stamp = authenticator.new_stamp()
    named = {"segment": chunk_id.segment, "chunk": chunk_id.index, "digest": _digest(body, authenticator, stamp)}
    return _add_prefix(msgpack.packb({**fields, **named}), authenticator, stamp)


def remove_tags(header: bytes, body: Tensor, authenticator: Authenticator, segment_id: str) -> bytes:
    """Check a payload of the segment `segment_id` that came from another process; return its header without tags, which
    can be read without the run's key. Raises WireError."""
    fields, stamp = _read_header(header, authenticator)
    check_chunk_id(ChunkId(_get(fields, "segment", str)), ChunkId(segment_id))
    _check_digest(_get(fields, "digest", bytes), body, authenticator, stamp)
    return _add_prefix(msgpack.packb({**fields, "digest": b""}), None, None)


def prefix_of(header: bytes) -> bytes:
    """The part of an authenticated header that stands for all of it: its tag, its stamp and its length."""
    return header[: _PREFIX.size + _STAMP.size]


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


def _digest(body: Tensor, authenticator: Authenticator | None, stamp: Stamp | None) -> bytes:
    """The tags of a body's blocks, or its digest. Blocks are read in parallel: one core alone is slower than a fast
    link."""
    raw = raw_bytes(body).data
    if authenticator is not None and stamp is not None:
        return authenticator.tag_blocks(stamp, raw)
    blocks = [raw[first : first + BLOCK_BYTES] for first in range(0, len(raw), BLOCK_BYTES)]
    in_turn: Callable[..., Iterable[bytes]] = map if len(blocks) < 2 else _digesters().map
    return xxhash.xxh3_128_digest(b"".join(in_turn(xxhash.xxh3_128_digest, blocks)))


def _check_digest(digest: bytes, body: Tensor, authenticator: Authenticator | None, stamp: Stamp | None) -> None:
    if stamp is None and not digest:
        return
    if not is_equal(digest, _digest(body, authenticator, stamp)):
        what = "digest" if stamp is None else "tag"
        raise WireError(f"the segment is damaged: the {what} of its {body.numel()} bytes of KV does not match")


@cache
def _digesters() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(_MAX_DIGESTERS, os.cpu_count() or 1), "digest")


def _read_meta(fields: dict[str, Any], spec: KVCacheSpec) -> SegmentMeta:
    counts = {name: _counts(fields, name) for name in ("lengths", "turn_starts", "offsets", "turn_lengths")}
    kept = kept_from_header(fields.get("kept"), spec.num_layers)
    return SegmentMeta(spec, **counts, kept=kept, is_open=_get(fields, "open", bool))


def _read_recompute_inputs(fields: dict[str, Any], spec: KVCacheSpec) -> RecomputeInputs:
    token_ids = torch.frombuffer(bytearray(_get(fields, "token_ids", bytes)) or bytearray(8), dtype=torch.int64)
    latents = from_raw(np.frombuffer(_get(fields, "latents", bytes), np.uint8).copy())
    latents = latents.view(spec.torch_dtype) if latents.numel() else latents.to(spec.torch_dtype)
    lengths = _counts(fields, "recipe_lengths")
    return RecomputeInputs(token_ids[: sum(lengths)], latents.view(-1, spec.hidden_size), lengths)


def _add_prefix(fields: bytes, authenticator: Authenticator | None, stamp: Stamp | None) -> bytes:
    if authenticator is None or stamp is None:
        return _PREFIX.pack(MAGIC, len(fields), xxhash.xxh3_128_digest(fields)) + fields
    rest = _STAMP.pack(authenticator.run_id, stamp.writer, stamp.number) + fields
    return _PREFIX.pack(SIGNED_MAGIC, len(fields), authenticator.tag(stamp, HEADER_BLOCK, rest)) + rest


def _read_header(header: bytes, authenticator: Authenticator | None) -> tuple[dict[str, Any], Stamp | None]:
    if len(header) < _PREFIX.size:
        raise WireError(f"the header is truncated: {len(header)} bytes, its prefix alone takes {_PREFIX.size}")
    magic, length, digest = _PREFIX.unpack_from(header)
    if magic not in (MAGIC, SIGNED_MAGIC):
        raise WireError(f"not a segment: the payload begins with {magic!r}, not {MAGIC!r}")
    stamp, rest = None, header[_PREFIX.size :]
    if magic == SIGNED_MAGIC:
        stamp, rest = _read_stamp(rest, digest, authenticator), rest[_STAMP.size :]
    elif authenticator is not None:
        raise WireError("the segment has no tag of this run")
    if len(rest) != length:
        raise WireError(f"the header is truncated: {len(rest)} of {length} bytes")
    if stamp is None and xxhash.xxh3_128_digest(rest) != digest:
        raise WireError("the header is damaged: its digest does not match")
    try:
        fields = msgpack.unpackb(rest, strict_map_key=True)
    except (ValueError, msgpack.UnpackException) as error:
        raise WireError(f"the header is not msgpack: {error}") from error
    if not isinstance(fields, dict):
        raise WireError("the header is not a mapping")
    if fields.get("version") != VERSION:
        raise WireError(f"segment version {fields.get('version')!r}; this program reads version {VERSION}")
    return fields, stamp


def _read_stamp(signed: bytes, tag: bytes, authenticator: Authenticator | None) -> Stamp:
    """The stamp of an authenticated header, of which `signed` is all behind its tag. Raises WireError."""
    if authenticator is None:
        raise WireError("the segment belongs to a run, and its key is not here")
    if len(signed) < _STAMP.size:
        raise WireError(f"the header is truncated: {len(signed)} bytes behind its tag")
    run, writer, number = _STAMP.unpack_from(signed)
    if run != authenticator.run_id:
        raise WireError("the segment is another run's")
    stamp = Stamp(writer, number)
    if not is_equal(tag, authenticator.tag(stamp, HEADER_BLOCK, signed)):
        raise WireError("the header is damaged: its tag does not match")
    return stamp


def check_chunk_id(found: ChunkId, expected: ChunkId | None) -> None:
    """Raise WireError if a chunk is not the one that was asked for."""
    if expected is not None and found != expected:
        raise WireError(
            f"another segment than the one that was asked for: chunk {found.index} of {found.segment!r}, not "
            f"chunk {expected.index} of {expected.segment!r}"
        )


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
