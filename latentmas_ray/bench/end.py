"""One end of a hand-over: an agent's cache and a transport, without the agent. Lives in whatever process.

Dimensions: L layers, C 2 (key, value), H KV heads, T tokens, D head dim, N latent thoughts, E hidden size.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash

from latentmas_ray.bench.links import Buffers, Sink, TcpLine
from latentmas_ray.bench.stamps import Received, Sent
from latentmas_ray.memory import LATENT, KVCacheSpec, RecomputeInputs, SegmentChunk, SegmentMeta
from latentmas_ray.memory.wire import from_raw, raw_bytes
from latentmas_ray.models.cache import BatchCache
from latentmas_ray.transport import Transport

_NUM_THOUGHTS = 40  # at the end of a segment, if it is long enough
_SPARE_SLOTS = 64  # a cache is longer than what lies in it


class End:
    """Sends or receives segments of one KV shape, as agents do."""

    def __init__(self, spec: KVCacheSpec, transport: Transport, num_threads: int) -> None:
        torch.set_num_threads(num_threads)
        self._spec = spec
        self._transport = transport
        self._cache: BatchCache | None = None
        self._outline: SegmentMeta | None = None
        self._recompute_inputs: RecomputeInputs | None = None
        self._buffers: Buffers | None = None
        self._kept: Any = None
        self._sink: Sink | None = None
        self._line: TcpLine | None = None
        transport.open()

    def free_bytes(self) -> int:
        """Memory that this machine could still give (Linux)."""
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) * 1024

    def prepare(self, num_tokens: int, *, is_sender: bool, with_buffers: bool) -> None:
        """Make a cache for a segment of so many tokens, full of random numbers at the sender; with buffers for the
        link's own measurement. All memory has been touched once when this returns."""
        self._drop()
        self._cache = _make_cache(self._spec, num_tokens, seed=1 if is_sender else None)
        self._outline = SegmentMeta(self._spec, (num_tokens,), (0,), (0,), (num_tokens,))
        self._recompute_inputs = _make_recipe(self._spec, num_tokens)
        if with_buffers:
            self._buffers = Buffers(num_tokens * self._spec.bytes_per_token)
            if self._sink is not None:
                self._sink.aim(self._buffers.target)

    @torch.inference_mode()
    def give(self) -> Sent:
        """What an agent does when its memory is final: copy it out of the cache, and pack it."""
        assert self._cache is not None
        assert self._outline is not None
        assert self._recompute_inputs is not None
        begun = time.time()
        lengths = self._outline.lengths
        kv_LCHTD = self._cache.copy_out([0], lengths, self._transport.reserve)
        piece = SegmentChunk.from_tensor(self._outline, (0,), lengths, kv_LCHTD, self._recompute_inputs)
        copied = time.time()
        payload = self._transport.pack(piece)
        if type(self._transport).release is not Transport.release:
            self._kept = payload  # an agent's actor lets go of everything else, too
        return Sent(begun, copied, time.time(), payload)

    @torch.inference_mode()
    def take(self, sent: Sent) -> tuple[tuple[float, float, float], Received]:
        """What an agent does before it reads its prompt: unpack, and write into the cache. Returns the sender's times
        and its own."""
        arrived = time.time()
        assert self._cache is not None
        piece = self._transport.unpack(sent.payload, expected=self._spec)
        unpacked = time.time()
        for row in range(piece.meta.num_questions):
            self._cache.write(row, 0, piece.kv_of(row), 0, self._spec.rope)
        self._cache.extend(piece.lengths)
        written = time.time()
        if self._transport.capabilities.readers_keep:
            self._kept = sent.payload
        carried = carries(sent.payload, piece.num_bytes)
        return (sent.begun, sent.copied, sent.packed), Received(arrived, unpacked, written, carried)

    def release(self) -> None:
        """The last payload was read, and nobody else will read it."""
        if self._kept is not None:
            self._transport.release(self._kept)
            self._kept = None

    def digest(self) -> str:
        """Of what lies in the cache."""
        assert self._cache is not None
        kv_LCHTD = self._cache.copy_out([0], self._cache.lengths)
        return str(xxhash.xxh3_128_hexdigest(raw_bytes(kv_LCHTD).data))

    def copy_seconds(self) -> float:
        """One memcpy of as many bytes."""
        assert self._buffers is not None
        return self._buffers.copy_seconds()

    def listen(self, host: str, key: bytes) -> int:
        """Take bytes over TCP, too; returns the port."""
        self._sink = Sink(host, key)
        return self._sink.port

    def dial(self, host: str, port: int, key: bytes) -> None:
        """Be connected to an end that listens."""
        self._line = TcpLine(host, port, key)

    def clock(self) -> tuple[float, float]:
        """How far the clock of the end that was dialled is ahead, and by how much that may be wrong."""
        assert self._line is not None
        return self._line.clock()

    def line_seconds(self) -> float:
        """As many bytes over plain TCP."""
        assert self._line is not None
        assert self._buffers is not None
        return self._line.seconds(self._buffers.source)

    def close(self) -> None:
        """Let go of everything."""
        self._drop()
        for link in (self._line, self._sink):
            if link is not None:
                link.close()
        self._transport.close()

    def _drop(self) -> None:
        self.release()
        self._cache = None
        if self._buffers is not None:
            self._buffers.close()
        self._buffers = None


def carries(payload: Any, num_bytes: int) -> bool:
    """Whether a payload holds this many bytes of KV itself, or only says where they are."""
    if isinstance(payload, (tuple, list)):
        return any(carries(part, num_bytes) for part in payload)
    if isinstance(payload, (bytes, bytearray, memoryview)):
        return len(payload) >= num_bytes
    return isinstance(payload, SegmentChunk) or (isinstance(payload, np.ndarray) and payload.nbytes >= num_bytes)


def _make_cache(spec: KVCacheSpec, num_tokens: int, *, seed: int | None) -> BatchCache:
    """A cache of one row: with `num_tokens` random tokens, or with zeros where as many will be written."""
    cache = BatchCache(spec, [torch.device("cpu")] * spec.num_layers, 1, num_tokens + _SPARE_SLOTS)
    layer_bytes = num_tokens * spec.bytes_per_token // spec.num_layers
    draw = np.random.default_rng(seed)
    # Layer by layer, as a whole segment more would be in memory otherwise.
    for layer in cache.layers:
        raw = draw.integers(0, 256, layer_bytes, dtype=np.uint8)
        if seed is None:
            raw[:] = 0
        kv_CHTD = from_raw(raw).view(spec.torch_dtype).view(2, spec.num_kv_heads, num_tokens, spec.head_dim)
        layer.kv_CBHTD[:, 0, :, :num_tokens] = kv_CHTD
    cache.open(1)
    cache.extend([num_tokens])
    return cache


def _make_recipe(spec: KVCacheSpec, num_tokens: int) -> RecomputeInputs:
    num_thoughts = _NUM_THOUGHTS if num_tokens > _NUM_THOUGHTS else 0
    ids = torch.randint(0, 32_000, (num_tokens,))
    ids[num_tokens - num_thoughts :] = LATENT
    return RecomputeInputs(ids, torch.zeros(num_thoughts, spec.hidden_size, dtype=spec.torch_dtype), (num_tokens,))
