"""The segments that a turn reads and the one that it writes, as its runner sees them."""

from collections.abc import Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor

from latentmas_ray.memory import Segment, SegmentChunk, SegmentMeta


class Incoming(Protocol):
    """The segments that a turn reads, by agent, in chunks. Some may still be in transit: the iterators wait for them.
    The consumer absorbs or feeds each chunk before it asks for the next."""

    def segments(self) -> Mapping[str, Segment | SegmentMeta]:
        """Each segment, or its meta data if chunks are still to come. Waits only for segments whose lengths are not
        known before their last chunk."""

    def chunks(self) -> Iterator[tuple[str, SegmentChunk]]:
        """All chunks with their agents; chunks that have arrived come first."""

    def chunks_of(self, agent: str) -> Iterator[SegmentChunk]:
        """The chunks of one agent's segment, in order."""


class InMemorySegments:
    """Segments that are complete and in memory."""

    def __init__(self, segments: Mapping[str, Segment]) -> None:
        self._segments = segments

    def segments(self) -> Mapping[str, Segment]:
        return self._segments

    def chunks(self) -> Iterator[tuple[str, SegmentChunk]]:
        return ((agent, SegmentChunk.whole(segment)) for agent, segment in self._segments.items())

    def chunks_of(self, agent: str) -> Iterator[SegmentChunk]:
        yield SegmentChunk.whole(self._segments[agent])


class Outgoing(Protocol):
    """The destination of a turn's segment, which is sent in one chunk or in two."""

    @property
    def overlaps(self) -> bool:
        """Whether tokens that are final before the thoughts are sent as a separate chunk."""

    def reserve(self, num_bytes: int, device: torch.device) -> Tensor:
        """Return a flat uint8 tensor for a chunk's KV, from which it is sent without another copy if possible."""

    def publish(self, final_at: float, chunk: SegmentChunk) -> None:
        """Send a chunk; `final_at` is when it became final, in wall-clock seconds."""
