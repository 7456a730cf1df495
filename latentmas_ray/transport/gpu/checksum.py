"""Chunks with a checksum: bytes on a GPU are checked there, so that they need not be copied to the CPU."""

import torch
from torch import Tensor

from latentmas_ray.config import CodecName
from latentmas_ray.errors import WireError
from latentmas_ray.memory import KVCacheSpec, SegmentChunk
from latentmas_ray.memory.wire import decode_chunk, encode_chunk

_WORDS = 2**20  # of 8 bytes, at a time: bounds the memory that this takes
_FACTOR, _MODULUS = 0x9E3779B97F4A7C15, 2**64


def device_checksum(body: Tensor) -> int:
    """A 64-bit checksum of a flat uint8 tensor, which depends on every byte and on their order.

    64-bit integers overflow alike everywhere, so it is the same on every device. It detects accidents, not intent.
    Waits for the device.
    """
    num_words = body.numel() // 8
    tail = body[num_words * 8 :].cpu().numpy().tobytes()
    offset = body.storage_offset() % 8
    words = (body if offset == 0 else body.clone())[: num_words * 8].view(torch.int64)
    # Odd weights, all different: the sum changes if a word changes, and if two words are swapped.
    weights = 2 * torch.arange(min(_WORDS, num_words), dtype=torch.int64, device=body.device) + 1
    total = int.from_bytes(tail, "little") + body.numel()
    for part in words.split(_WORDS):
        mixed = part ^ (part >> 29)
        total = (total * _FACTOR + int((mixed * weights[: part.numel()]).sum().item())) % _MODULUS
    return total


def encode_with_checksum(chunk: SegmentChunk, device: str, codec: CodecName) -> tuple[bytes, Tensor, int | None]:
    """Return a chunk's header, its bytes on `device`, and their checksum; None on the CPU, where the header has a
    digest. Waits until the bytes are computed."""
    header, body = encode_chunk(chunk, codec=codec, with_digest=device == "cpu")
    body = body.to(device)
    return header, body, None if device == "cpu" else device_checksum(body)


def decode_with_checksum(header: bytes, body: Tensor, checksum: int | None, *, expected: KVCacheSpec) -> SegmentChunk:
    """The inverse of `seal`, on the bytes of `body`. Raises WireError, IncompatibleMemoryError."""
    if checksum is not None and device_checksum(body) != checksum:
        raise WireError(f"the segment is damaged: the checksum of its {body.numel()} bytes of KV does not match")
    return decode_chunk(header, body, expected=expected)
