"""The position of each segment in a merged memory: chains continue positions, parallel branches follow one another.

A branch is shifted as a block: the distances inside it stay, and it begins where the previous branches end. A segment
that two branches share (both read the same agent) appears once, where the first branch has it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from latentmas_ray.errors import IncompatibleMemoryError, SegmentError
from latentmas_ray.memory.chunk import SegmentChunk
from latentmas_ray.memory.segment import Segment, SegmentMeta
from latentmas_ray.memory.spec import KVCacheSpec
from latentmas_ray.topology.agent import AgentMemory


@dataclass(frozen=True)
class PlacedSegment:
    """A segment, or the meta data of one that is still being received, and by how many positions each question's tokens
    are shifted from where they were computed."""

    agent: str
    segment: Segment | SegmentMeta
    shifts: tuple[int, ...]


@dataclass(frozen=True)
class MergedLayout:
    """One consistent sequence per question: segments in order, and the position at which a reader's prompt begins."""

    segments: tuple[PlacedSegment, ...]
    next_positions: tuple[int, ...]

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens per question in the reader's cache after it absorbed the segments."""
        columns = [placed.segment.kv_lengths for placed in self.segments]
        return tuple(map(sum, zip(*columns, strict=True))) if columns else tuple(0 for _ in self.next_positions)

    @property
    def last(self) -> str:
        """The agent of the last segment, whose states sum up all segments before it; empty without memory."""
        return self.segments[-1].agent if self.segments else ""

    def chunks(self) -> Iterator[tuple[str, SegmentChunk]]:
        """Every complete segment as one chunk, with its agent."""
        for placed in self.segments:
            if isinstance(placed.segment, Segment):
                yield placed.agent, SegmentChunk.whole(placed.segment)


def merge_layout(
    reads: Sequence[AgentMemory], segments: Mapping[str, Segment | SegmentMeta], num_questions: int
) -> MergedLayout:
    """Lay out the memories `reads` for one reader. Moves no bytes; meta data suffice.

    Raises SegmentError if a segment is missing or has another number of questions, IncompatibleMemoryError if two
    segments come from different models, or if a model whose layers keep states would have to merge parallel branches.
    """
    for name in dict.fromkeys(name for memory in reads for name in memory.agents()):
        if name not in segments:
            raise SegmentError(f"the memory of agent {name!r} is read but was not given")
        segment = segments[name]
        if isinstance(segment, SegmentMeta) and segment.is_open:
            raise SegmentError(f"agent {name!r} still thinks: the length of its memory is not known yet")
        if segments[name].num_questions != num_questions:
            raise SegmentError(
                f"agent {name!r} wrote for {segments[name].num_questions} questions, not {num_questions}"
            )
    shifts, ends = _line_up(reads, segments, num_questions)
    placed = tuple(PlacedSegment(name, segments[name], tuple(moved)) for name, moved in shifts.items())
    for item in placed[1:]:
        placed[0].segment.spec.check_same(item.segment.spec)
    if placed and placed[0].segment.spec.has_states:
        _require_chain(reads, placed[0].segment.spec)
    return MergedLayout(placed, tuple(ends))


def _require_chain(reads: Sequence[AgentMemory], spec: KVCacheSpec) -> None:
    """Raise IncompatibleMemoryError unless each of these memories continues the one before it."""
    everything = {name for memory in reads for name in memory.agents()}
    if everything <= set(reads[-1].agents()):
        return
    apart = [memory.agent for memory in reads]
    raise IncompatibleMemoryError(
        f"the memories of {' and '.join(apart)} are parallel branches, and {spec.architecture} cannot merge them: "
        f"{spec.why_no_merge}: use a topology in which every agent reads the one before it, like sequential"
    )


def _line_up(
    reads: Sequence[AgentMemory], segments: Mapping[str, Segment | SegmentMeta], num_questions: int
) -> tuple[dict[str, list[int]], list[int]]:
    """Shifts per agent and question, and the end position per question, of the merge of `reads`."""
    shifts: dict[str, list[int]] = {}
    ends = [0] * num_questions
    for memory in reads:
        branch, _ = _line_up(memory.reads, segments, num_questions)
        branch[memory.agent] = [0] * num_questions  # an agent's own turn is not shifted within its branch
        new = [name for name in branch if name not in shifts]
        for question in range(num_questions):
            spans = [
                (
                    segments[name].turn_starts[question] + branch[name][question],
                    segments[name].turn_ends[question] + branch[name][question],
                )
                for name in new
            ]
            move = ends[question] - min(first for first, _ in spans) if shifts and new else 0
            for name in new:
                branch[name][question] += move
            ends[question] = max([ends[question], *(stop + move for _, stop in spans)])
        shifts.update({name: branch[name] for name in new})
    return shifts, ends
