"""The limit on working memory in flight."""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil


@dataclass(frozen=True, kw_only=True)
class SegmentBound:
    """An upper bound on one question's part of a segment that does not exist yet. A prompt has no more tokens than
    bytes."""

    prompt_bytes: int
    latent_steps: int
    spare_tokens: int  # tokens that the prompt's bytes do not include


@dataclass
class _ReservedSegment:
    bounds: Sequence[SegmentBound]
    num_bytes: int | None = None


class MemoryBudget:
    """Counts the bytes of all segments that exist or are reserved, and decides whether another batch fits.

    A segment counts with its true size once its turn has finished, and with an estimate before that: the prompt's bytes
    times the largest number of tokens per byte seen for this agent (1 at first). So the estimate adapts to the
    tokenizer and still depends on the length of the question.
    """

    def __init__(self, limit_bytes: int, bytes_per_token: int) -> None:
        self._limit_bytes = limit_bytes
        self._bytes_per_token = bytes_per_token
        self._tokens_per_byte: dict[str, float] = {}
        self._segments: dict[tuple[Hashable, str], _ReservedSegment] = {}

    @property
    def reserved_bytes(self) -> int:
        """Bytes of all segments, estimated for those that do not exist yet."""
        return sum(
            self._estimate(agent, segment.bounds) if segment.num_bytes is None else segment.num_bytes
            for (_, agent), segment in self._segments.items()
        )

    @property
    def stored_bytes(self) -> int:
        """Bytes of the segments that exist."""
        return sum(self.stored_bytes_by_agent().values())

    def stored_bytes_by_agent(self) -> dict[str, int]:
        """Bytes of the segments that exist, by the agent that wrote them."""
        stored: Counter[str] = Counter()
        for (_, agent), segment in self._segments.items():
            stored[agent] += segment.num_bytes or 0
        return stored

    def fits(self, bounds_by_agent: Mapping[str, Sequence[SegmentBound]]) -> bool:
        """Return whether another batch stays within the limit, given the bounds of its segments for each question.

        When no memory is in flight every batch fits: a batch larger than the limit runs alone.
        """
        reserved = self.reserved_bytes
        added = sum(self._estimate(agent, bounds) for agent, bounds in bounds_by_agent.items())
        return not reserved or reserved + added <= self._limit_bytes

    def reserve(self, batch: Hashable, bounds_by_agent: Mapping[str, Sequence[SegmentBound]]) -> None:
        """Reserve memory for these segments of a batch, replacing earlier reservations for them."""
        for agent, bounds in bounds_by_agent.items():
            self._segments[batch, agent] = _ReservedSegment(bounds)

    def set_size(self, batch: Hashable, agent: str, segment_bytes: Sequence[int]) -> None:
        """Replace the estimate of a segment by its true size in bytes for each question, and update tokens per byte."""
        segment = self._segments[batch, agent]
        segment.num_bytes = sum(segment_bytes)
        for num_bytes, bound in zip(segment_bytes, segment.bounds, strict=True):
            if bound.prompt_bytes and self._bytes_per_token:
                tokens = num_bytes / self._bytes_per_token - bound.latent_steps
                seen = self._tokens_per_byte.get(agent, 0.0)
                self._tokens_per_byte[agent] = max(seen, tokens / bound.prompt_bytes)

    def stop_counting(self, batch: Hashable, agent: str) -> None:
        """Stop counting a segment. Does nothing if it is not counted."""
        self._segments.pop((batch, agent), None)

    def clear(self) -> None:
        """Stop counting all segments."""
        self._segments.clear()

    def _estimate(self, agent: str, bounds: Sequence[SegmentBound]) -> int:
        tokens_per_byte = self._tokens_per_byte.get(agent, 1.0)
        tokens = sum(ceil(b.prompt_bytes * tokens_per_byte) + b.latent_steps + b.spare_tokens for b in bounds)
        return tokens * self._bytes_per_token
