"""One end of a transfer, without an agent: a cache and a transport. It can live in any process.

Dimensions: L layers, C 2 (key, value), H KV heads, T tokens, D head dim, N latent thoughts, E hidden size.
"""

import time
from typing import Any

import numpy as np
import torch
import xxhash

from latentmas_ray.authentication import RunKey
from latentmas_ray.bench.link_limits import Buffers, TcpReceiver, TcpSender
from latentmas_ray.bench.timings import Received, Sent
from latentmas_ray.bench.used_memory import available_bytes
from latentmas_ray.memory import LATENT, KVCacheSpec, RecomputeInputs, SegmentChunk, SegmentMeta
from latentmas_ray.memory.wire import from_raw, raw_bytes
from latentmas_ray.models.cache import BatchCache
from latentmas_ray.transport import Transport

_NUM_THOUGHTS = 40  # at the end of a segment, if it is long enough
_SPARE_SLOTS = 64  # a cache has room for more than its tokens


class TransferEndpoint:
    """Sends or receives segments of one KV shape, as an agent does."""

    def __init__(self, spec: KVCacheSpec, transport: Transport, num_threads: int, key: RunKey) -> None:
        """`key` is the one of the other end."""
        torch.set_num_threads(num_threads)
        self._spec = spec
        self._transport, self._key = transport, key
        self._cache: BatchCache | None = None
        self._meta: SegmentMeta | None = None
        self._recompute_inputs: RecomputeInputs | None = None
        self._buffers: Buffers | None = None
        self._to_release: Any = None
        self._tcp_receiver: TcpReceiver | None = None
        self._tcp_sender: TcpSender | None = None
        transport.open(key)

    def free_bytes(self) -> int:
        """Return the memory that is available on this machine (Linux)."""
        return available_bytes()

    def prepare(self, num_tokens: int, *, is_sender: bool, with_buffers: bool) -> None:
        """Allocate a cache for a segment of `num_tokens`, filled with random numbers at the sender.

        `with_buffers` also allocates buffers to measure the link itself. All memory has been touched once on return.
        """
        self._drop()
        self._cache = _make_cache(self._spec, num_tokens, seed=1 if is_sender else None)
        self._meta = SegmentMeta(self._spec, (num_tokens,), (0,), (0,), (num_tokens,))
        self._recompute_inputs = _make_recompute_inputs(self._spec, num_tokens)
        if with_buffers:
            self._buffers = Buffers(num_tokens * self._spec.bytes_per_token)
            if self._tcp_receiver is not None:
                self._tcp_receiver.set_target(self._buffers.target)

    @torch.inference_mode()
    def send(self) -> Sent:
        """Copy the segment out of the cache and pack it, as an agent does once its memory is final."""
        assert self._cache is not None
        assert self._meta is not None
        assert self._recompute_inputs is not None
        begun = time.time()
        lengths = self._meta.lengths
        kv = self._cache.copy_out([0], lengths, self._transport.reserve)
        chunk = SegmentChunk(self._meta, (0,), lengths, kv, self._recompute_inputs)
        copied = time.time()
        payload = self._transport.pack(chunk)
        if type(self._transport).release is not Transport.release:
            self._to_release = payload  # an agent's actor drops everything else, too
        return Sent(begun, copied, time.time(), payload)

    @torch.inference_mode()
    def receive(self, sent: Sent) -> tuple[tuple[float, float, float], Received]:
        """Unpack the segment and write it into the cache, as an agent does before it reads its prompt.

        Returns the sender's times and this endpoint's.
        """
        arrived = time.time()
        assert self._cache is not None
        chunk = self._transport.unpack(sent.payload, expected=self._spec)
        unpacked = time.time()
        for row in range(chunk.meta.num_questions):
            positions = chunk.positions_of(row, 0)
            for _, kv in chunk.head_views(row):
                self._cache.write(row, 0, kv, 0, positions=positions)
        self._cache.extend(chunk.lengths)
        written = time.time()
        if self._transport.capabilities.readers_keep:
            self._to_release = sent.payload
        holds_bytes = holds_kv_bytes(sent.payload, chunk.num_bytes)
        return (sent.begun, sent.copied, sent.packed), Received(arrived, unpacked, written, holds_bytes)

    def release(self) -> None:
        """Free the last payload: it will not be read again."""
        if self._to_release is not None:
            self._transport.release(self._to_release)
            self._to_release = None

    def digest(self) -> str:
        """Return a hash of the cache's contents."""
        assert self._cache is not None
        kv = self._cache.copy_out([0], self._cache.lengths)
        return str(xxhash.xxh3_128_hexdigest(raw_bytes(kv.buffer()).data))

    def copy_seconds(self) -> float:
        """Return the seconds of one memcpy of the segment's bytes."""
        assert self._buffers is not None
        return self._buffers.copy_seconds()

    def listen(self, host: str) -> int:
        """Accept TCP connections of the other end at `host`; return the port."""
        self._tcp_receiver = TcpReceiver(host, self._key)
        return self._tcp_receiver.port

    def connect(self, host: str, port: int) -> None:
        """Connect by TCP to an endpoint that listens."""
        self._tcp_sender = TcpSender(host, port, self._key)

    def clock(self) -> tuple[float, float]:
        """Return how many seconds the connected endpoint's clock is ahead, and the error of that."""
        assert self._tcp_sender is not None
        return self._tcp_sender.clock()

    def tcp_seconds(self) -> float:
        """Return the seconds to send the segment's bytes over plain TCP."""
        assert self._tcp_sender is not None
        assert self._buffers is not None
        return self._tcp_sender.seconds(self._buffers.source)

    def close(self) -> None:
        """Free all memory, close all connections and the transport."""
        self._drop()
        for link in (self._tcp_sender, self._tcp_receiver):
            if link is not None:
                link.close()
        self._transport.close()

    def _drop(self) -> None:
        self.release()
        self._cache = None
        if self._buffers is not None:
            self._buffers.close()
        self._buffers = None


def holds_kv_bytes(payload: Any, num_bytes: int) -> bool:
    """Return whether a payload contains `num_bytes` of KV itself, not only their address."""
    if isinstance(payload, (tuple, list)):
        return any(holds_kv_bytes(part, num_bytes) for part in payload)
    if isinstance(payload, (bytes, bytearray, memoryview)):
        return len(payload) >= num_bytes
    return isinstance(payload, SegmentChunk) or (isinstance(payload, np.ndarray) and payload.nbytes >= num_bytes)


def _make_cache(spec: KVCacheSpec, num_tokens: int, *, seed: int | None) -> BatchCache:
    """Return a cache of one row with `num_tokens`: random numbers, or zeros if `seed` is None."""
    cache = BatchCache(spec, [torch.device("cpu")] * spec.num_layers, 1, num_tokens + _SPARE_SLOTS)
    draw = np.random.default_rng(seed)
    # Layer by layer: otherwise memory would hold a second copy of the segment.
    for block_CBHTD in (block for layer in cache.layers for block in layer.blocks):
        part_CHTD = block_CBHTD[:, 0, :, :num_tokens]
        raw = draw.integers(0, 256, part_CHTD.numel() * part_CHTD.itemsize, dtype=np.uint8)
        if seed is None:
            raw[:] = 0
        part_CHTD.copy_(from_raw(raw).view(part_CHTD.dtype).view(part_CHTD.shape))
    cache.open(1)
    cache.extend([num_tokens])
    return cache


def _make_recompute_inputs(spec: KVCacheSpec, num_tokens: int) -> RecomputeInputs:
    num_thoughts = _NUM_THOUGHTS if num_tokens > _NUM_THOUGHTS else 0
    ids = torch.randint(0, 32_000, (num_tokens,))
    ids[num_tokens - num_thoughts :] = LATENT
    return RecomputeInputs(ids, torch.zeros(num_thoughts, spec.hidden_size, dtype=spec.torch_dtype), (num_tokens,))
