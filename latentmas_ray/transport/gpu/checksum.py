"""Tags of bytes on a GPU, computed there, so that the bytes need not be copied to the CPU.

A tag is the HMAC of keyed sums of the bytes. The bytes are 32-bit words w; a part of 2^20 words has the sums Σ w·k mod
2^64 for each of two series of secret 64-bit weights k (the multilinear family of universal hashes: Carter and Wegman
1979; Lemire and Kaser, "Strongly universal string hashing is fast", 2014). Two different parts of one length have equal
sums with a probability of at most 2^-33 for each series, 2^-66 for both; the HMAC shows nothing of the sums.
"""

from functools import lru_cache

import torch
from torch import Tensor

from latentmas_ray.authentication import Authenticator, ChunkId, RunKey, is_equal
from latentmas_ray.config import CodecName
from latentmas_ray.errors import WireError
from latentmas_ray.memory import KVCacheSpec, SegmentChunk
from latentmas_ray.memory.wire import decode_chunk, encode_chunk, prefix_of

_WORDS = 2**20  # of 4 bytes, in a part
_NUM_SERIES = 2


def device_tag(body: Tensor, header: bytes, authenticator: Authenticator) -> bytes:
    """The tag of a flat uint8 tensor as the body of `header`. The same on every device, because 64-bit integers
    overflow alike everywhere. Waits for the device."""
    num_words = body.numel() // 4
    tail = body[num_words * 4 :].cpu().numpy().tobytes()
    words = (body if body.storage_offset() % 4 == 0 else body.clone())[: num_words * 4].view(torch.int32)
    weights = _weights(authenticator.key, str(body.device))
    sums = [(part.long() * series[: part.numel()]).sum() for part in words.split(_WORDS) for series in weights]
    summed = torch.stack(sums).cpu().numpy().tobytes() if num_words else b""
    sizes = body.numel().to_bytes(8, "little")
    return authenticator.mac("bytes on a device", prefix_of(header) + sizes + tail.ljust(4, b"\0") + summed)


def encode_with_checksum(
    chunk: SegmentChunk,
    device: str,
    codec: CodecName,
    authenticator: Authenticator,
    chunk_id: ChunkId | None = None,
) -> tuple[bytes, Tensor, bytes | None]:
    """Return a chunk's header, its bytes on `device`, and their tag; None on the CPU, where the header has it. Waits
    until the bytes are computed."""
    header, body = encode_chunk(
        chunk, codec=codec, with_digest=device == "cpu", authenticator=authenticator, chunk_id=chunk_id
    )
    body = body.to(device)
    return header, body, None if device == "cpu" else device_tag(body, header, authenticator)


def decode_with_checksum(
    header: bytes,
    body: Tensor,
    checksum: bytes | None,
    authenticator: Authenticator,
    *,
    expected: KVCacheSpec,
    chunk_id: ChunkId | None = None,
) -> SegmentChunk:
    """The inverse of `encode_with_checksum`, on the bytes of `body`. Raises WireError, IncompatibleMemoryError."""
    if checksum is not None and not is_equal(checksum, device_tag(body, header, authenticator)):
        raise WireError(f"the segment is damaged: the tag of its {body.numel()} bytes of KV does not match")
    return decode_chunk(
        header,
        body,
        expected=expected,
        checks_digest=checksum is None,
        authenticator=authenticator,
        chunk_id=chunk_id,
    )


@lru_cache(maxsize=4)
def _weights(key: RunKey, device: str) -> tuple[Tensor, ...]:
    """The secret weights of a run, int64, on a device: AES-256 in counter mode."""
    from cryptography.hazmat.primitives.ciphers import Cipher
    from cryptography.hazmat.primitives.ciphers.algorithms import AES
    from cryptography.hazmat.primitives.ciphers.modes import CTR

    stream = Cipher(AES(key.derive("weights of sums")), CTR(bytes(16))).encryptor()
    drawn = bytearray(stream.update(bytes(8 * _WORDS * _NUM_SERIES)))
    weights = torch.frombuffer(drawn, dtype=torch.int64).to(device)
    return tuple(weights[first : first + _WORDS] for first in range(0, len(weights), _WORDS))
