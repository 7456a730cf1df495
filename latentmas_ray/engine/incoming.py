"""The memory that a turn reads, as its runner sees it: some of it may still be on its way."""

from collections.abc import Iterator, Mapping
from typing import Protocol

from latentmas_ray.memory import Segment, SegmentChunk, SegmentMeta


class Incoming(Protocol):
    """Segments by the agent that wrote them, in pieces. Taking a piece out may wait for it; each is absorbed, or fed,
    before the next is taken."""

    def segments(self) -> Mapping[str, Segment | SegmentMeta]:
        """Each segment, or its outline where something of it is still to come. Waits for nothing."""

    def pieces(self) -> Iterator[tuple[str, SegmentChunk]]:
        """All pieces with their agents, those that are here first."""

    def pieces_of(self, agent: str) -> Iterator[SegmentChunk]:
        """The pieces of one agent's segment, in order."""


class Present:
    """Memory that is all there."""

    def __init__(self, segments: Mapping[str, Segment]) -> None:
        self._segments = segments

    def segments(self) -> Mapping[str, Segment]:
        return self._segments

    def pieces(self) -> Iterator[tuple[str, SegmentChunk]]:
        return ((agent, SegmentChunk.whole(segment)) for agent, segment in self._segments.items())

    def pieces_of(self, agent: str) -> Iterator[SegmentChunk]:
        yield SegmentChunk.whole(self._segments[agent])
