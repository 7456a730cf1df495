"""Memory that comes as recipes: the reader computes the KV itself, from the token ids and thoughts that made it.

A recipe is some twenty times smaller than its KV, and a forward over known inputs is one parallel prefill, so on a slow
link this is the faster hand-over. Positions, and what each segment may attend to, are those of its own agent.
"""

from collections.abc import Collection, Sequence

from latentmas_ray.engine.engine import Engine
from latentmas_ray.engine.incoming import Incoming
from latentmas_ray.memory import Outline, Segment, join, join_recipes, place
from latentmas_ray.topology.agent import AgentMemory


def replay(
    engine: Engine,
    reads: Sequence[AgentMemory],
    memory: Incoming,
    recipes: Collection[str],
    question_ids: Sequence[str],
) -> dict[str, Segment]:
    """All segments of the memories `reads`; those of the agents `recipes` are computed here, the others were sent.

    A prompt is fed while its thoughts are still on their way. In a chain every segment stays in the cache where the
    next goes on, so nothing is copied. Raises SegmentError for a memory that is not complete, ContextLengthError.
    """
    outlines = memory.segments()
    num_slots = max(place(reads, outlines, len(question_ids)).lengths, default=0)
    segments: dict[str, Segment] = {}
    for node in _in_order(reads):
        if node.agent in segments:
            continue
        pieces = engine.lm.ranks.each(memory.pieces_of(node.agent))
        if node.agent not in recipes:
            segments[node.agent] = join(list(pieces))
            continue
        placement = place(node.reads, segments, len(question_ids))
        # Parts before those that are handed over are computed all the same: what is handed over attended to them. What
        # is behind was perhaps left out for a reason, and is not even looked at.
        outline = _outline(outlines[node.agent])
        ends = [offset + length for offset, length in zip(outline.offsets, outline.lengths, strict=True)]
        hidden = max(ends, default=0)
        with engine.lm.ranks.agreeing():
            num_needed = max(num_slots, max(placement.lengths) + hidden)
            session = engine.open(question_ids, num_slots=num_needed, reads=placement)
            session.absorb(placement)
        recipes_of_turn = []
        for piece in pieces:
            session.feed_recipe(piece.recipe.head(ends))
            ends = [max(0, end - count) for end, count in zip(ends, piece.recipe.lengths, strict=True)]
            recipes_of_turn.append(piece.recipe)
        segments[node.agent] = session.emit_as(outline, join_recipes(recipes_of_turn, outline.turn_lengths))
    return segments


def _in_order(memories: Sequence[AgentMemory]) -> list[AgentMemory]:
    """Every memory behind those that it reads."""
    return [node for memory in memories for node in (*_in_order(memory.reads), memory)]


def _outline(segment: Segment | Outline) -> Outline:
    return segment if isinstance(segment, Outline) else Outline.of(segment)
