"""Test segments that show how fast a transport moves memory between two processes.

Dimensions: L layers, C 2 (key, value), H KV heads, T tokens, D head dim.
"""

from typing import Any

import torch

from latentmas_ray.authentication import RunKey
from latentmas_ray.memory import InMemoryKV, KVCacheSpec, RecomputeInputs, SegmentChunk, SegmentMeta
from latentmas_ray.memory.layer_spec import RopeSpec
from latentmas_ray.transport.base import Transport

# Any shape does: transports see bytes.
PROBE_SPEC = KVCacheSpec.uniform(
    architecture="Probe",
    num_layers=1,
    num_kv_heads=1,
    head_dim=1024,
    hidden_size=1,
    dtype="bfloat16",
    rope=RopeSpec("default", (1.0,) * 512),
    weights_revision="",
)


def whole_chunk(spec: KVCacheSpec, num_tokens: int, body: torch.Tensor) -> SegmentChunk:
    """Return a segment of one question as one chunk on the bytes of `body`, a flat uint8 tensor."""
    tokens = (num_tokens,)
    latents_NE = torch.zeros(0, spec.hidden_size, dtype=spec.torch_dtype)
    inputs = RecomputeInputs(torch.zeros(num_tokens, dtype=torch.long), latents_NE, tokens)
    meta = SegmentMeta(spec, tokens, (0,), (0,), tokens)
    return SegmentChunk(meta, (0,), tokens, InMemoryKV(meta.layout(), body), inputs)


class LinkProbe:
    """One end of a link with a transport of its own, for segments of one size in the CPU's memory."""

    def __init__(self, transport: Transport, key: RunKey | None, num_bytes: int) -> None:
        """Open the transport and touch all memory. `num_bytes` is rounded down to whole tokens."""
        self._num_tokens = num_bytes // PROBE_SPEC.bytes_per_token
        self._memory = torch.ones(self._num_tokens * PROBE_SPEC.bytes_per_token, dtype=torch.uint8)
        self._payload: Any = None
        self._transport = transport
        transport.open(key)

    def send(self) -> Any:
        """Return the payload of a segment, as an agent whose memory is final."""
        body = self._transport.reserve(self._memory.numel(), self._memory.device)
        body.copy_(self._memory)
        self._payload = self._transport.pack(whole_chunk(PROBE_SPEC, self._num_tokens, body))
        return self._payload

    def receive(self, payload: Any) -> None:
        """Unpack a payload and copy its bytes, as an agent that absorbs it. Raises like `Transport.unpack`."""
        chunk = self._transport.unpack(payload, expected=PROBE_SPEC)
        self._memory.copy_(chunk.kv.buffer())
        self._payload = payload

    def release(self) -> None:
        """Free the last payload."""
        payload, self._payload = self._payload, None
        if payload is not None:
            self._transport.release(payload)

    def close(self) -> None:
        """Close the transport."""
        self.release()
        self._transport.close()
