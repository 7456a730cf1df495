"""The segments that a turn reads and the one that it writes, as its runner sees them."""

from collections.abc import Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor

from latentmas_ray.memory import Segment, SegmentChunk, SegmentMeta


class Incoming(Protocol):
    """Segments by the agent that wrote them, in chunks. Taking a chunk out may wait for it; each is absorbed, or fed,
    before the next is taken."""

    def segments(self) -> Mapping[str, Segment | SegmentMeta]:
        """Each segment, or its meta where something of it is still to come. Waits for nothing."""

    def chunks(self) -> Iterator[tuple[str, SegmentChunk]]:
        """All chunks with their agents, those that are here first."""

    def chunks_of(self, agent: str) -> Iterator[SegmentChunk]:
        """The chunks of one agent's segment, in order."""


class InMemorySegments:
    """Memory that is all there."""

    def __init__(self, segments: Mapping[str, Segment]) -> None:
        self._segments = segments

    def segments(self) -> Mapping[str, Segment]:
        return self._segments

    def chunks(self) -> Iterator[tuple[str, SegmentChunk]]:
        return ((agent, SegmentChunk.whole(segment)) for agent, segment in self._segments.items())

    def chunks_of(self, agent: str) -> Iterator[SegmentChunk]:
        yield SegmentChunk.whole(self._segments[agent])


class Outgoing(Protocol):
    """Takes a turn's segment, in one chunk or in two."""

    @property
    def leaves_early(self) -> bool:
        """Whether what is final before the thoughts is wanted as a chunk of its own."""

    def reserve(self, num_bytes: int, device: torch.device) -> Tensor:
        """A flat uint8 tensor to write a chunk's KV into: where it can travel from without another copy."""

    def publish(self, final_at: float, chunk: SegmentChunk) -> None:
        """A chunk leaves; `final_at` is when it became final, in seconds of the wall clock."""
