"""The bound on working memory in flight."""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil


@dataclass(frozen=True, kw_only=True)
class SegmentBound:
    """What is known of one question's part of a segment before it exists. No tokenizer makes more tokens than bytes."""

    prompt_bytes: int
    latent_steps: int
    spare_tokens: int  # for what the prompt's bytes do not show


@dataclass
class _ReservedSegment:
    bounds: Sequence[SegmentBound]
    num_bytes: int | None = None


class MemoryBudget:
    """Counts the bytes of all segments that are alive or will be, and says whether another batch fits.

    A segment counts with its true size once that is reported. Until then a prompt counts as many tokens as it has
    bytes, times the most tokens a byte that this agent has been seen to need: so the estimate adapts to the
    tokenizer, and still tells a long question from a short one.
    """

    def __init__(self, limit_bytes: int, bytes_per_token: int) -> None:
        self._limit_bytes = limit_bytes
        self._bytes_per_token = bytes_per_token
        self._tokens_per_byte: dict[str, float] = {}
        self._segments: dict[tuple[Hashable, str], _ReservedSegment] = {}

    @property
    def reserved_bytes(self) -> int:
        """What all segments together take, those still to come by estimate."""
        return sum(
            self._estimate(agent, segment.bounds) if segment.num_bytes is None else segment.num_bytes
            for (_, agent), segment in self._segments.items()
        )

    @property
    def held_bytes(self) -> int:
        """What the segments take that are known to exist."""
        return sum(self.held_bytes_by_agent().values())

    def held_bytes_by_agent(self) -> dict[str, int]:
        """What the segments take that are known to exist, by the agent that wrote them."""
        held: Counter[str] = Counter()
        for (_, agent), segment in self._segments.items():
            held[agent] += segment.num_bytes or 0
        return held

    def fits(self, bounds_by_agent: Mapping[str, Sequence[SegmentBound]]) -> bool:
        """Whether another batch, with these bounds for each of its segments and questions, stays below the limit.

        Where no memory is in flight everything fits: a batch larger than the limit runs alone instead of never.
        """
        reserved = self.reserved_bytes
        coming = sum(self._estimate(agent, bounds) for agent, bounds in bounds_by_agent.items())
        return not reserved or reserved + coming <= self._limit_bytes

    def reserve(self, batch: Hashable, bounds_by_agent: Mapping[str, Sequence[SegmentBound]]) -> None:
        """Count these segments of a batch from now on, in place of what was reserved for them before."""
        for agent, bounds in bounds_by_agent.items():
            self._segments[batch, agent] = _ReservedSegment(bounds)

    def settle(self, batch: Hashable, agent: str, segment_bytes: Sequence[int]) -> None:
        """Replace the estimate of a segment by its true size, per question, and learn from it."""
        segment = self._segments[batch, agent]
        segment.num_bytes = sum(segment_bytes)
        for num_bytes, bound in zip(segment_bytes, segment.bounds, strict=True):
            if bound.prompt_bytes and self._bytes_per_token:
                tokens = num_bytes / self._bytes_per_token - bound.latent_steps
                seen = self._tokens_per_byte.get(agent, 0.0)
                self._tokens_per_byte[agent] = max(seen, tokens / bound.prompt_bytes)

    def release(self, batch: Hashable, agent: str) -> None:
        """The segment is dropped. One that does not count (any more) is ignored."""
        self._segments.pop((batch, agent), None)

    def clear(self) -> None:
        """All segments are dropped."""
        self._segments.clear()

    def _estimate(self, agent: str, bounds: Sequence[SegmentBound]) -> int:
        tokens_per_byte = self._tokens_per_byte.get(agent, 1.0)
        tokens = sum(ceil(b.prompt_bytes * tokens_per_byte) + b.latent_steps + b.spare_tokens for b in bounds)
        return tokens * self._bytes_per_token
