"""Memory that comes as recompute inputs: the reader computes the KV itself, from the token ids and thoughts that made
it.

Recompute inputs are some twenty times smaller than the KV, and a forward over known inputs is one parallel prefill, so
on a slow link this is the faster hand-over. Positions, and what each segment may attend to, are those of its own agent.
"""

from collections.abc import Collection, Sequence

from latentmas_ray.engine.engine import Engine
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
    """All segments of the memories `reads`; those of the agents `recomputed` are computed here, the others were sent.

    A prompt is fed while its thoughts are still on their way. In a chain every segment stays in the cache where the
    next goes on, so nothing is copied. Raises SegmentError for a memory that is not complete, ContextLengthError.
    """
    metas = memory.segments()
    num_slots = max(merge_layout(reads, metas, len(question_ids)).lengths, default=0)
    segments: dict[str, Segment] = {}
    for node in _in_order(reads):
        if node.agent in segments:
            continue
        chunks = engine.lm.ranks.each(memory.chunks_of(node.agent))
        if node.agent not in recomputed:
            segments[node.agent] = join(list(chunks))
            continue
        merged = merge_layout(node.reads, segments, len(question_ids))
        # Parts before those that are handed over are computed all the same: what is handed over attended to them. What
        # is behind was perhaps left out for a reason, and is not even looked at.
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


def _in_order(memories: Sequence[AgentMemory]) -> list[AgentMemory]:
    """Every memory behind those that it reads."""
    return [node for memory in memories for node in (*_in_order(memory.reads), memory)]


def _meta_of(segment: Segment | SegmentMeta) -> SegmentMeta:
    return segment if isinstance(segment, SegmentMeta) else segment.meta
