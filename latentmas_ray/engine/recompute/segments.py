"""Recomputation of memory that was sent as recompute inputs: the reader computes the KV from token ids and thoughts.

Recompute inputs are about twenty times smaller than the KV, and a forward over known inputs is one parallel prefill, so
this is faster than sending KV over a slow link. Each segment has the positions and the context of its own agent.
"""

from collections.abc import Collection, Sequence

from latentmas_ray.engine.engine import Engine
from latentmas_ray.engine.recompute.translated import in_reading_order
from latentmas_ray.engine.segment_io import Incoming
from latentmas_ray.memory import Segment, SegmentMeta, join, join_recompute_inputs, merge_layout
from latentmas_ray.topology.agent import AgentMemory


def recompute(
    engine: Engine,
    reads: Sequence[AgentMemory],
    memory: Incoming,
    recomputed: Collection[str],
    question_ids: Sequence[str],
) -> dict[str, Segment]:
    """Return all segments of the memories `reads`: recomputed for the agents `recomputed`, as sent for the others.

    A prompt is fed while its thoughts are still in transit. In a chain the next segment continues in the same cache, so
    nothing is copied. Raises SegmentError for incomplete memory, ContextLengthError.
    """
    metas = memory.segments()
    num_slots = max(merge_layout(reads, metas, len(question_ids)).lengths, default=0)
    segments: dict[str, Segment] = {}
    for node in in_reading_order(reads):
        if node.agent in segments:
            continue
        chunks = engine.lm.ranks.each(memory.chunks_of(node.agent))
        if node.agent not in recomputed:
            segments[node.agent] = join(list(chunks))
            continue
        merged = merge_layout(node.reads, segments, len(question_ids))
        # Inputs before the kept tokens are computed too, because the kept tokens attended to them. Inputs after them
        # may have been dropped for a reason and are not read.
        meta = _meta_of(metas[node.agent])
        ends = [offset + length for offset, length in zip(meta.offsets, meta.lengths, strict=True)]
        hidden = max(ends, default=0)
        with engine.lm.ranks.all_or_none():
            num_needed = max(num_slots, max(merged.lengths) + hidden)
            session = engine.open(question_ids, num_slots=num_needed, reads=merged)
            session.absorb(merged)
        turn_inputs = []
        for chunk in chunks:
            session.feed_recompute_inputs(chunk.recompute_inputs.head(ends))
            ends = [max(0, end - count) for end, count in zip(ends, chunk.recompute_inputs.lengths, strict=True)]
            turn_inputs.append(chunk.recompute_inputs)
        segments[node.agent] = session.emit_as(meta, join_recompute_inputs(turn_inputs, meta.turn_lengths))
    return segments


def _meta_of(segment: Segment | SegmentMeta) -> SegmentMeta:
    return segment if isinstance(segment, SegmentMeta) else segment.meta
