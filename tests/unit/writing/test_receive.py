"""From segments to the memory of each question."""

import pytest
import torch

from latentmas_ray.engine.segment_io import InMemorySegments
from latentmas_ray.engine.turn import Prompt, Sampling, TurnRequest
from latentmas_ray.errors import IncompatibleMemoryError, SegmentError
from latentmas_ray.memory import LATENT, Segment, SegmentChunk, merge_layout
from latentmas_ray.topology.agent import AgentMemory
from latentmas_ray.writing.question_memory import question_memories
from latentmas_ray.writing.receive import receive_memory
from tests.cases.memory import SPEC, make_segment, spec_of

PLANNER = AgentMemory("planner")
CHAIN = (AgentMemory("critic", (PLANNER,)),)


def chain() -> dict[str, Segment]:
    """Two agents, three questions; the last begins with nothing handed over by the planner."""
    planner = make_segment([(3, 2), (1, 0), (4, 1)], windows=[(0, 5), (0, 1), (2, 2)], seed=1)
    critic = make_segment([(2, 1), (2, 2), (1, 1)], turn_starts=planner.turn_ends, seed=2)
    return {"planner": planner, "critic": critic}


def request(reads: tuple[AgentMemory, ...], **changes: frozenset[str]) -> TurnRequest:
    return TurnRequest(
        agent="judger",
        batch=0,
        question_ids=("a", "b", "c"),
        prompts=(Prompt(messages=()),) * 3,
        thinks="text",
        sampling=Sampling(),
        reads=reads,
        **changes,
    )


def test_each_question_gets_its_parts_one_after_another() -> None:
    segments = chain()
    merged = merge_layout(CHAIN, segments, 3)
    memories = question_memories(SPEC, merged, merged.chunks())
    for index, memory in enumerate(memories):
        assert memory is not None
        joined = torch.cat([part.kv_LCHTD for part in memory.parts], dim=3)
        expected = torch.cat([segment.kv_of(index) for segment in segments.values()], dim=3)
        assert torch.equal(joined, expected)
        assert memory.num_tokens == joined.shape[3] == merged.lengths[index]
        assert memory.next_position == merged.next_positions[index]
        ends = [part.first_slot + part.kv_LCHTD.shape[3] for part in memory.parts]
        assert [part.first_slot for part in memory.parts] == [0, *ends[:-1]]
    last = memories[2]
    assert last is not None
    assert last.next_position > last.num_tokens
    assert memories[0].parts[0].kv_LCHTD.data_ptr() == segments["planner"].kv_of(0).data_ptr()  # type: ignore[union-attr]


def test_a_question_that_reads_nothing_has_no_memory() -> None:
    assert question_memories(SPEC, merge_layout((), {}, 2), []) == [None, None]


def test_missing_and_foreign_memory_is_refused() -> None:
    segments = chain()
    merged = merge_layout(CHAIN, segments, 3)
    (first, *_) = merged.chunks()
    for chunks in ([first], [first, first, *list(merged.chunks())]):
        with pytest.raises(SegmentError, match="missing or duplicate"):
            question_memories(SPEC, merged, chunks)
    with pytest.raises(IncompatibleMemoryError):
        question_memories(spec_of("bfloat16"), merged, merged.chunks())


def test_an_engine_that_takes_inputs_gets_those_of_the_whole_chain() -> None:
    planner = make_segment([(3, 2), (1, 0), (4, 1)], seed=1)
    critic = make_segment([(2, 1), (2, 2), (1, 1)], turn_starts=planner.turn_ends, seed=2)
    segments = {"planner": planner, "critic": critic}
    work = request(CHAIN, recomputed=frozenset(segments))
    received = receive_memory(SPEC, work, InMemorySegments(segments), None)
    assert received.memories == [None] * 3
    assert list(received.starts) == list(critic.turn_ends)
    for index, inputs in enumerate(received.inputs):
        assert inputs is not None
        parts = [segment.recompute_inputs.take([index]) for segment in segments.values()]
        assert torch.equal(inputs.token_ids_T, torch.cat([part.token_ids_T for part in parts]))
        assert torch.equal(inputs.latents_NE, torch.cat([part.latents_NE for part in parts]))
        assert len(inputs.latents_NE) == int((inputs.token_ids_T == LATENT).sum())


@pytest.mark.parametrize(
    ("reads", "recomputed", "why"),
    [
        ((PLANNER, AgentMemory("critic")), {"planner", "critic"}, "not of parallel agents"),
        (CHAIN, {"planner"}, "and critic sent KV"),
        (CHAIN, {"planner", "critic"}, "agent planner hands over a part"),
    ],
)
def test_other_inputs_are_refused(reads: tuple[AgentMemory, ...], recomputed: set[str], why: str) -> None:
    work = request(reads, recomputed=frozenset(recomputed))
    with pytest.raises(SegmentError, match=why):
        receive_memory(SPEC, work, InMemorySegments(chain()), None)


def test_chunks_are_held_as_long_as_their_views() -> None:
    segments = chain()
    received = receive_memory(SPEC, request(CHAIN), InMemorySegments(segments), None)
    assert isinstance(received.held, list)
    assert [type(chunk) for chunk in received.held] == [SegmentChunk, SegmentChunk]
