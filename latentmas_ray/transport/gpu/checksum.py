"""Pieces with what their bytes are checked by when they arrive: on a GPU a sum, so that they need not go to the CPU."""

import torch
from torch import Tensor

from latentmas_ray.config import CodecName
from latentmas_ray.errors import WireError
from latentmas_ray.memory import KVCacheSpec, SegmentChunk
from latentmas_ray.memory.wire import decode_chunk, encode_chunk

_WORDS = 2**20  # of 8 bytes, at a time: bounds the memory that this takes
_FACTOR, _MODULUS = 0x9E3779B97F4A7C15, 2**64


def device_checksum(body: Tensor) -> int:
    """64 bits of a flat uint8 tensor that change with each byte and with the order of the bytes.

    Integers of 64 bits wrap around in the same way everywhere, so it is the same on every device. It is
    against accidents, not against intent. Waits for the device.
    """
    num_words = body.numel() // 8
    tail = body[num_words * 8 :].cpu().numpy().tobytes()
    offset = body.storage_offset() % 8
    words = (body if offset == 0 else body.clone())[: num_words * 8].view(torch.int64)
    # Odd weights, all different: a changed word changes the sum, and so do two that have changed places.
    weights = 2 * torch.arange(min(_WORDS, num_words), dtype=torch.int64, device=body.device) + 1
    total = int.from_bytes(tail, "little") + body.numel()
    for part in words.split(_WORDS):
        mixed = part ^ (part >> 29)
        total = (total * _FACTOR + int((mixed * weights[: part.numel()]).sum().item())) % _MODULUS
    return total


def encode_with_checksum(chunk: SegmentChunk, device: str, codec: CodecName) -> tuple[bytes, Tensor, int | None]:
    """A chunk's header, its bytes on `device`, and what they are checked by there where the header has no digest: a
    digest is made on the CPU. Waits until the bytes have been computed."""
    header, body = encode_chunk(chunk, codec=codec, with_digest=device == "cpu")
    body = body.to(device)
    return header, body, None if device == "cpu" else device_checksum(body)


def decode_with_checksum(header: bytes, body: Tensor, checksum: int | None, *, expected: KVCacheSpec) -> SegmentChunk:
    """The inverse of `seal`, on the bytes of `body`. Raises WireError, IncompatibleMemoryError."""
    if checksum is not None and device_checksum(body) != checksum:
        raise WireError(f"the segment is damaged: the checksum of its {body.numel()} bytes of KV does not match")
    return decode_chunk(header, body, expected=expected)
