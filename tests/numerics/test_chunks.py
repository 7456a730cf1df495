"""A segment that leaves and arrives in chunks is, bit for bit, the one that leaves and arrives whole."""

from collections.abc import Sequence
from itertools import permutations

import pytest
import torch

from latentmas_ray.engine.engine import Engine
from latentmas_ray.errors import SegmentError
from latentmas_ray.memory import MergedLayout, Segment, SegmentChunk, join, merge_layout
from latentmas_ray.topology.agent import AgentMemory, HandsOver
from tests.cases.memory import assert_equal, cut
from tests.numerics.turns import begin, logits_of, prompts_of, think

PROMPTS = prompts_of([9, 2, 21], 1)
QUESTION = prompts_of([5, 3, 8], 3)


def in_chunks(engine: Engine, hands_over: HandsOver, placement: MergedLayout | None = None) -> list[SegmentChunk]:
    session = begin(engine, PROMPTS, placement)
    chunks = [session.emit_chunk(hands_over, 4)]
    session.think(3)
    session.feed([[7]] * 3)
    return [*chunks, session.emit_chunk(hands_over)]


@pytest.mark.parametrize("hands_over", ["all", "prompt", "latents", "latents+sink"])
def test_a_turn_emits_the_same_whole_and_in_chunks(engine: Engine, hands_over: HandsOver) -> None:
    before = think(engine, prompts_of([3, 11, 4], 2), 2)
    placement = merge_layout([AgentMemory("before")], {"before": before}, 3)
    session = begin(engine, PROMPTS, placement)
    session.think(3)
    session.feed([[7]] * 3)
    whole = session.emit(hands_over)
    chunks = in_chunks(engine, hands_over, placement)
    assert chunks[0].meta == whole.meta
    assert_equal(join(chunks), whole)


def branches(engine: Engine) -> dict[str, Segment]:
    return {name: think(engine, prompts_of([6 + seed, 4, 9], seed), 2) for seed, name in enumerate(("x", "y"), 5)}


def read(engine: Engine, placement: MergedLayout, chunks: Sequence[tuple[str, SegmentChunk]] | None) -> torch.Tensor:
    session = engine.open(["q0", "q1", "q2"], num_slots=max(placement.lengths) + 20, reads=placement)
    session.absorb(placement, chunks)
    session.prefill(QUESTION)
    return logits_of(session).clone()


def test_chunks_are_absorbed_in_any_order(engine: Engine) -> None:
    """Of parallel branches, whose keys are moved by what the others wrote."""
    segments = branches(engine)
    reads = [AgentMemory("x"), AgentMemory("y")]
    expected = read(engine, merge_layout(reads, segments, 3), None)
    outlines = {name: segment.meta for name, segment in segments.items()}
    parts = [(name, chunk) for name, segment in segments.items() for chunk in cut(segment, [4, 4, 4])]
    for order in permutations(parts):
        assert torch.equal(read(engine, merge_layout(reads, outlines, 3), order), expected)


def test_a_chunk_that_never_came_or_came_twice_is_noticed(engine: Engine) -> None:
    segments = branches(engine)
    reads = [AgentMemory("x"), AgentMemory("y")]
    outlines = {name: segment.meta for name, segment in segments.items()}
    parts = [(name, chunk) for name, segment in segments.items() for chunk in cut(segment, [4, 4, 4])]
    expected = read(engine, merge_layout(reads, segments, 3), None)
    for wrong in (parts[1:], parts[:-1], [*parts, parts[0]]):
        with pytest.raises(SegmentError, match="missing or duplicate"):
            read(engine, merge_layout(reads, outlines, 3), wrong)
    assert torch.equal(read(engine, merge_layout(reads, segments, 3), None), expected)
