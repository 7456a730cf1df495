"""Codecs that store KV in fewer bytes: pure functions that run on the device of the KV.

uniform   where KV is one tensor [L, 2, H, T, D]
layered   where layers cache different tensors
"""

from collections.abc import Sequence

from torch import Tensor

from latentmas_ray.config import CodecName
from latentmas_ray.memory.codec.layered import coded_layers_bytes, decode_layers, encode_layers
from latentmas_ray.memory.codec.uniform import (
    CODECS,
    decode_kv,
    encode_kv,
    relative_error,
    sampled_error,
)
from latentmas_ray.memory.codec.uniform import coded_bytes as uniform_bytes
from latentmas_ray.memory.kv_source import CodecStats, InMemoryKV, KVLayout, KVSource
from latentmas_ray.memory.spec import KVCacheSpec

__all__ = [
    "CODECS",
    "CodecName",
    "QuantizedKV",
    "coded_bytes",
    "coded_layout_bytes",
    "decode_kv",
    "encode",
    "encode_kv",
    "relative_error",
    "sampled_error",
]


def encode(kv: KVSource, codec: CodecName) -> tuple[Tensor, float]:
    """Return the encoded KV, a flat uint8 tensor on the same device, and a sample of the relative error. Layers must
    keep equally many tokens. Raises SegmentError like `encode_kv`, IncompatibleMemoryError."""
    if codec == "none":
        return kv.buffer(), 0.0
    layout = kv.layout
    layout.require_even()
    if not layout.is_uniform:
        return encode_layers(kv, codec)
    kv_LCHTD, lengths = kv.tensor(), layout.lengths  # of the tokens that are kept
    return encode_kv(kv_LCHTD, lengths, codec), sampled_error(kv_LCHTD, lengths, codec, layout.spec)


def coded_bytes(lengths: Sequence[int], codec: CodecName, spec: KVCacheSpec) -> int:
    """The exact size of the encoded KV of so many tokens in bytes, without states. Allocates nothing."""
    return coded_layout_bytes(KVLayout(spec, tuple(lengths)), codec)


def coded_layout_bytes(layout: KVLayout, codec: CodecName) -> int:
    """The exact size of the encoded KV of this layout in bytes. Allocates nothing."""
    if codec == "none":
        return layout.num_bytes
    if layout.is_uniform:
        return uniform_bytes(layout.lengths, codec, layout.spec)
    return coded_layers_bytes(layout, codec)


class QuantizedKV(KVSource):
    """KV encoded by a lossy codec; decoded when its bytes are first read."""

    codec_stats: CodecStats

    def __init__(self, layout: KVLayout, body: Tensor, codec_stats: CodecStats) -> None:
        """`body` has exactly `coded_bytes` bytes and must not change before it is decoded."""
        self.layout = layout
        self.codec_stats = codec_stats
        self._body: Tensor | None = body
        self._decoded: InMemoryKV | None = None

    def buffer(self) -> Tensor:
        if self._decoded is None:
            assert self._body is not None
            spec, lengths, codec = self.layout.spec, self.layout.lengths, self.codec_stats.codec
            if self.layout.is_uniform:
                self._decoded = InMemoryKV.of(spec, lengths, decode_kv(self._body, lengths, codec, spec))
            else:
                self._decoded = InMemoryKV(self.layout, decode_layers(self._body, self.layout, codec))
            self._body = None
        return self._decoded.buffer()
