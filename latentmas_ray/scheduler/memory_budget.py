"""The limit on working memory in flight."""

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import NamedTuple


class SegmentBound(NamedTuple):
    """An upper bound on one question's part of a segment that does not exist yet. A prompt has no more tokens than
    bytes."""

    prompt_bytes: int
    latent_steps: int
    spare_tokens: int  # tokens that the prompt's bytes do not include


@dataclass
class _ReservedSegment:
    bounds: Sequence[SegmentBound]
    estimated_tokens: int
    num_bytes: int | None = None  # None: it does not exist yet


@dataclass
class _AgentSegments:
    """The segments of one agent, and their sums: a run with a thousand replicas has thousands of segments."""

    tokens_per_byte: float | None = None  # the largest seen
    by_batch: dict[Hashable, _ReservedSegment] = field(default_factory=dict)
    estimated_tokens: int = 0  # of the segments that do not exist yet
    estimated_questions: int = 0  # of these segments
    stored_bytes: int = 0  # of those that do

    def estimate(self, bounds: Sequence[SegmentBound]) -> int:
        """Return the estimated tokens of a segment."""
        tokens_per_byte = 1.0 if self.tokens_per_byte is None else self.tokens_per_byte
        return sum(ceil(b.prompt_bytes * tokens_per_byte) + b.latent_steps + b.spare_tokens for b in bounds)

    def add(self, batch: Hashable, bounds: Sequence[SegmentBound]) -> None:
        """Count a segment that does not exist yet, in place of that of an earlier reservation."""
        self.remove(batch)
        segment = self.by_batch[batch] = _ReservedSegment(bounds, self.estimate(bounds))
        self.estimated_tokens += segment.estimated_tokens
        self.estimated_questions += len(bounds)

    def remove(self, batch: Hashable) -> None:
        """Stop counting a segment, if it is counted."""
        if (segment := self.by_batch.pop(batch, None)) is None:
            return
        if segment.num_bytes is None:
            self.estimated_tokens -= segment.estimated_tokens
            self.estimated_questions -= len(segment.bounds)
        else:
            self.stored_bytes -= segment.num_bytes

    def set_size(self, batch: Hashable, num_bytes: int) -> _ReservedSegment:
        """Count a segment with its true size from now on, and return it."""
        segment = self.by_batch[batch]
        self.remove(batch)
        segment.num_bytes = num_bytes
        self.stored_bytes += num_bytes
        self.by_batch[batch] = segment
        return segment

    def see(self, tokens_per_byte: float) -> None:
        """Repeat the estimates of segments that do not exist yet, if so many tokens per byte were not seen before."""
        largest = max(self.tokens_per_byte or 0.0, tokens_per_byte)
        if largest == self.tokens_per_byte:
            return
        self.tokens_per_byte = largest
        for segment in self.by_batch.values():
            if segment.num_bytes is None:
                self.estimated_tokens -= segment.estimated_tokens
                segment.estimated_tokens = self.estimate(segment.bounds)
                self.estimated_tokens += segment.estimated_tokens


class MemoryBudget:
    """Counts the bytes of all segments that exist or are reserved, and decides whether another batch fits.

    A segment counts with its true size once its turn has finished, and with an estimate before that: the prompt's bytes
    times the largest number of tokens per byte seen for this agent (1 at first). So the estimate adapts to the
    tokenizer and still depends on the length of the question. Sums are kept, so no call looks at all segments but the
    few that change an estimate.
    """

    def __init__(self, limit_bytes: int, bytes_per_token: int, state_bytes: int = 0) -> None:
        """`state_bytes` are those of a question's states, which each of its segments carries."""
        self._limit_bytes = limit_bytes
        self._bytes_per_token, self._state_bytes = bytes_per_token, state_bytes
        self._agents: defaultdict[str, _AgentSegments] = defaultdict(_AgentSegments)

    @property
    def reserved_bytes(self) -> int:
        """Bytes of all segments, estimated for those that do not exist yet."""
        tokens = sum(agent.estimated_tokens for agent in self._agents.values())
        questions = sum(agent.estimated_questions for agent in self._agents.values())
        return tokens * self._bytes_per_token + questions * self._state_bytes + self.stored_bytes

    @property
    def stored_bytes(self) -> int:
        """Bytes of the segments that exist."""
        return sum(agent.stored_bytes for agent in self._agents.values())

    def stored_bytes_by_agent(self) -> dict[str, int]:
        """Bytes of the segments that exist, by the agent that wrote them; agents without segments are missing."""
        return {name: agent.stored_bytes for name, agent in self._agents.items() if agent.by_batch}

    def fits(self, bounds_by_agent: Mapping[str, Sequence[SegmentBound]]) -> bool:
        """Return whether another batch stays within the limit, given the bounds of its segments for each question.

        When no memory is in flight every batch fits: a batch larger than the limit runs alone.
        """
        if not (reserved := self.reserved_bytes):
            return True
        tokens = sum(self._agents[agent].estimate(bounds) for agent, bounds in bounds_by_agent.items())
        questions = sum(map(len, bounds_by_agent.values()))
        wanted = tokens * self._bytes_per_token + questions * self._state_bytes
        return reserved + wanted <= self._limit_bytes

    def reserve(self, batch: Hashable, bounds_by_agent: Mapping[str, Sequence[SegmentBound]]) -> None:
        """Reserve memory for these segments of a batch, replacing earlier reservations for them."""
        for agent, bounds in bounds_by_agent.items():
            self._agents[agent].add(batch, bounds)

    def set_size(self, batch: Hashable, agent: str, segment_bytes: Sequence[int]) -> None:
        """Replace the estimate of a segment by its true size in bytes for each question, and update tokens per byte."""
        segment = self._agents[agent].set_size(batch, sum(segment_bytes))
        if not self._bytes_per_token:
            return
        seen = [
            ((num_bytes - self._state_bytes) / self._bytes_per_token - bound.latent_steps) / bound.prompt_bytes
            for num_bytes, bound in zip(segment_bytes, segment.bounds, strict=True)
            if bound.prompt_bytes
        ]
        if seen:
            self._agents[agent].see(max(seen))

    def stop_counting(self, batch: Hashable, agent: str) -> None:
        """Stop counting a segment. Does nothing if it is not counted."""
        self._agents[agent].remove(batch)

    def clear(self) -> None:
        """Stop counting all segments."""
        for agent in self._agents.values():
            agent.by_batch.clear()
            agent.estimated_tokens = agent.estimated_questions = agent.stored_bytes = 0
