"""From the segments that a turn reads to one memory per question, as an engine that writes texts gets it."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from torch import Tensor

from latentmas_ray.errors import SegmentError
from latentmas_ray.memory import KVCacheSpec, MergedLayout, SegmentChunk
from latentmas_ray.writing.text_engine import LayeredPart, MemoryPart, QuestionMemory

if TYPE_CHECKING:  # an actor imports transformers with its model
    from latentmas_ray.models.cache import BatchCache


def write_memory(cache: "BatchCache", row: int, memory: QuestionMemory) -> None:
    """Write a question's memory into a row of a cache, from its first slot on."""
    for part in memory.parts:
        cache.write(
            row, part.first_slot, part.kv_LCHTD, part.shift, first_head=part.first_head, positions=part.positions
        )
    for one in memory.layered:
        cache.write(row, one.first_slot, one.tensors, one.shift, has_states=one.has_states, positions=one.positions)


def question_memories(
    spec: KVCacheSpec, merged: MergedLayout, chunks: Iterable[tuple[str, SegmentChunk]]
) -> list[QuestionMemory | None]:
    """Return the memory of each question of a turn; None for one that reads nothing.

    `chunks` are the placed segments' chunks, each with its agent, in any order; the iterator may wait for them. The
    parts are views of the chunks, which the caller must keep as long as the memories are in use. Raises
    IncompatibleMemoryError for memory that does not have `spec`, SegmentError if a chunk is missing or comes twice.
    """
    ends = [0] * len(merged.next_positions)
    begins, missing, shifts = {}, {}, {}
    for placed in merged.segments:
        spec.check_same(placed.segment.spec)
        placed.segment.layout().require_even()
        begins[placed.agent] = list(ends)
        ends = [end + length for end, length in zip(ends, placed.segment.kv_lengths, strict=True)]
        missing[placed.agent] = sum(placed.segment.lengths)
        shifts[placed.agent] = placed.shifts
    parts: list[list[MemoryPart]] = [[] for _ in ends]
    layered: list[list[LayeredPart]] = [[] for _ in ends]
    for agent, chunk in chunks:
        for question, shift in enumerate(shifts[agent]):
            if chunk.lengths[question]:
                slot = begins[agent][question] + chunk.num_kept_before(question)
                positions = chunk.positions_of(question, shift)
                for head, kv in chunk.head_views(question):
                    if isinstance(kv, Tensor):
                        part = MemoryPart(
                            kv_LCHTD=kv, first_slot=slot, shift=shift, first_head=head, positions=positions
                        )
                        parts[question].append(part)
                    else:
                        num_tokens = chunk.kv.layout.lengths[question]
                        layered[question].append(
                            LayeredPart(
                                tensors=kv,
                                num_tokens=num_tokens,
                                first_slot=slot,
                                shift=shift,
                                has_states=agent == merged.last,
                                positions=positions,
                            )
                        )
        missing[agent] -= sum(chunk.lengths)
    if any(missing.values()):
        raise SegmentError(f"memory is missing or duplicate: {missing} tokens")
    return [
        QuestionMemory(
            parts=tuple(parts[question]),
            num_tokens=end,
            next_position=merged.next_positions[question],
            layered=tuple(layered[question]),
        )
        if end or merged.next_positions[question]
        else None
        for question, end in enumerate(ends)
    ]
