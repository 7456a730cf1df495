"""`python -m benchmarks authentication`: what tags and proofs cost, next to the digest without a key."""

import hmac
import os
import socket
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import xxhash
from cryptography.hazmat.primitives.poly1305 import Poly1305
from rich.console import Console
from rich.table import Table

from latentmas_ray.authentication import BLOCK_BYTES, Authenticator, ChunkId, RunKey
from latentmas_ray.memory import LATENT, RecomputeInputs, Segment, SegmentChunk
from latentmas_ray.memory.wire import decode_chunk, encode_chunk
from latentmas_ray.models.presets import kv_shape
from latentmas_ray.transport.listener import Listener, call

TOKENS = 2048
_NUM_THOUGHTS = 40
_HOST, _TIMEOUT_SECONDS = "127.0.0.1", 10.0


def measure_authentication(repeats: int, *, all_cores: bool) -> None:
    """Measure tags of bytes on one core, a chunk's two ends, and a connection's handshake; print tables. `repeats` of
    each figure, in turn; with `all_cores` also the two ends on all cores."""
    console = Console()
    everything = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(everything)})
    _print(console, "bytes, one core", _measure_bytes(repeats), "GB/s")
    _print(console, f"a chunk of {TOKENS} tokens of Qwen3-0.6B, one core", _measure_chunks(repeats), "ms")
    if all_cores:
        os.sched_setaffinity(0, everything)
        _print(console, f"the same, {len(everything)} cores", _measure_chunks(repeats), "ms")
    _print(console, "small things", _measure_small(repeats), "µs")


def _measure_bytes(repeats: int) -> dict[str, float]:
    """GB/s of each way to check bytes."""
    body = memoryview(np.random.default_rng(0).integers(0, 256, 14 * BLOCK_BYTES, dtype=np.uint8).data)
    blocks = [body[first : first + BLOCK_BYTES] for first in range(0, len(body), BLOCK_BYTES)]
    authenticator, key = Authenticator(RunKey.generate()), os.urandom(32)
    target = np.ones(len(body), np.uint8)

    ways: dict[str, Callable[[], object]] = {
        "digest (xxh3, no key)": lambda: [xxhash.xxh3_128_digest(block) for block in blocks],
        "tags (GMAC)": lambda: [
            authenticator.tag(stamp, number, block)
            for stamp in [authenticator.new_stamp()]
            for number, block in enumerate(blocks)
        ],
        "Poly1305": lambda: [Poly1305.generate_tag(key, block) for block in blocks],
        "HMAC-SHA256": lambda: [hmac.digest(key, block, "sha256") for block in blocks],
        "memcpy": lambda: np.copyto(target, np.frombuffer(body, np.uint8)),
    }
    return {name: len(body) / seconds / 1e9 for name, seconds in _medians(ways, repeats).items()}


def _measure_chunks(repeats: int) -> dict[str, float]:
    """Milliseconds to encode a chunk and to decode it, with a digest and with tags."""
    chunk = SegmentChunk.whole(_segment())
    authenticator, chunk_id = Authenticator(RunKey.generate()), ChunkId("segment")
    plain = encode_chunk(chunk)
    tagged = encode_chunk(chunk, authenticator=authenticator, chunk_id=chunk_id)
    ways: dict[str, Callable[[], object]] = {
        "encode with a digest": lambda: encode_chunk(chunk),
        "encode with tags": lambda: encode_chunk(chunk, authenticator=authenticator, chunk_id=chunk_id),
        "decode with a digest": lambda: decode_chunk(*plain),
        "decode with tags": lambda: decode_chunk(*tagged, authenticator=authenticator, chunk_id=chunk_id),
        "encode a header alone": lambda: encode_chunk(chunk, with_digest=False),
        "encode a header with its tag": lambda: encode_chunk(chunk, with_digest=False, authenticator=authenticator),
    }
    return {name: seconds * 1e3 for name, seconds in _medians(ways, repeats).items()}


def _measure_small(repeats: int) -> dict[str, float]:
    """Microseconds of what is done once for a handle, a process or a connection."""
    key = RunKey.generate()
    authenticator, listener = Authenticator(key), Listener(_HOST, _TIMEOUT_SECONDS, lambda *_: None, key)
    address = (listener.address.host, listener.address.port)
    ways: dict[str, Callable[[], object]] = {
        "the tag of a handle": lambda: authenticator.mac("handle", bytes(200)),
        "a derived key": lambda: key.derive("purpose"),
        "a connection without handshake": lambda: socket.create_connection(address, _TIMEOUT_SECONDS).close(),
        "a connection with handshake": lambda: call(listener.address, _TIMEOUT_SECONDS, key).close(),
    }
    try:
        return {name: seconds * 1e6 for name, seconds in _medians(ways, 10 * repeats).items()}
    finally:
        listener.close()


def _segment() -> Segment:
    import torch

    spec = kv_shape("qwen3-0.6b", dtype="bfloat16")
    shape = (spec.num_layers, 2, spec.num_kv_heads, TOKENS, spec.head_dim)
    ids = torch.randint(0, 32_000, (TOKENS,))
    ids[TOKENS - _NUM_THOUGHTS :] = LATENT
    latents = torch.zeros(_NUM_THOUGHTS, spec.hidden_size, dtype=spec.torch_dtype)
    inputs = RecomputeInputs(ids, latents, (TOKENS,))
    return Segment.from_tensor(spec, torch.ones(shape, dtype=spec.torch_dtype), (TOKENS,), (0,), (0,), inputs)


def _medians(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """The median seconds of each way; the ways take turns, so that a drift of the machine meets all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, way in ways.items():
            begin = time.perf_counter()
            way()
            if repeat:  # the first is a warm-up
                seconds[name].append(time.perf_counter() - begin)
    return {name: median(times) for name, times in seconds.items()}


def _print(console: Console, title: str, figures: dict[str, float], unit: str) -> None:
    table = Table("", unit, title=title, title_justify="left")
    for name, figure in figures.items():
        table.add_row(name, f"{figure:.3g}")
    console.print(table)
