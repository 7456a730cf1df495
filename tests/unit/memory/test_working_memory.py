"""A memory as an object: what it tells of itself, how it comes from turns and goes to them, how several become one."""

import pickle
from collections.abc import Sequence
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from latentmas_ray.errors import IncompatibleMemoryError, MemoryInputError, SegmentError, WireError
from latentmas_ray.memory import (
    InMemoryKV,
    Memory,
    MemorySegment,
    Segment,
    SegmentChunk,
    TPRank,
    join,
    repeat,
)
from latentmas_ray.memory.chunk import have_kv
from latentmas_ray.memory.wire import encode_chunk, raw_bytes
from latentmas_ray.topology.agent import AgentMemory
from tests.cases.memory import (
    SPEC,
    assert_equal,
    cut,
    make_memory,
    make_segment,
    memories,
    reshaped,
    segments,
    spec_of,
    take,
)

CHAIN = make_memory({"planner": (3, 2), "critic": (2, 1)}, texts={"judge": "Yes."})
FIELDS = {"model": "test-model", "question": "?", "reads": (AgentMemory("planner"),)}
RANKS = [TPRank(0, 2), TPRank(1, 2)]


def of_rank(segment: Segment, shard: TPRank) -> Segment:
    """The heads of one rank."""
    spec = segment.spec.of_shard(shard)
    first = shard.rank * spec.num_kv_heads
    kv_LCHTD = segment.kv_LCHTD[:, :, first : first + spec.num_kv_heads].contiguous()
    return Segment.from_tensor(
        spec, kv_LCHTD, segment.lengths, segment.turn_starts, segment.meta.offsets, segment.recompute_inputs
    )


def on_the_wire(chunks: Sequence[SegmentChunk]) -> list[tuple[bytes, np.ndarray]]:
    return [(header, raw_bytes(body)) for header, body in map(encode_chunk, chunks)]


def test_what_it_tells_of_itself() -> None:
    assert CHAIN.agents == ("planner", "critic")
    assert (CHAIN.num_tokens, CHAIN.num_latent_thoughts, CHAIN.num_positions) == (8, 3, 8)
    assert CHAIN.positions() == {"planner": (0, 5), "critic": (5, 8)}
    assert CHAIN.num_bytes == 8 * SPEC.bytes_per_token
    assert CHAIN.spec == SPEC
    assert repr(CHAIN) == "Memory(model='test-model', agents=(planner, critic), 8 tokens, 1.02 KB of KV)"
    assert repr(CHAIN.segments["planner"]) == "MemorySegment(5 tokens, 2 latent thoughts, 640 B of KV)"


def test_without_kv_it_is_its_recompute_inputs() -> None:
    small = CHAIN.without_kv()
    assert CHAIN.has_kv
    assert not small.has_kv
    assert small.num_bytes == sum(sum(s.inputs.bytes_per_question) for s in CHAIN.segments.values()) < CHAIN.num_bytes
    assert small.num_tokens == CHAIN.num_tokens
    assert small != CHAIN
    assert small.without_kv() == small
    assert "of recompute inputs" in repr(small)


def test_it_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        CHAIN.question = "?"  # type: ignore[misc]
    with pytest.raises(TypeError, match="unhashable"):
        hash(CHAIN)


@given(memories())
def test_it_survives_pickling(memory: Memory) -> None:
    again = pickle.loads(pickle.dumps(memory))
    assert again == memory
    assert again.agents == memory.agents == tuple(placed.agent for placed in memory.merged_layout().segments)


def test_only_equal_memories_are_equal() -> None:
    assert make_memory({"planner": (3, 2), "critic": (2, 1)}, texts={"judge": "Yes."}) == CHAIN
    for other in (
        make_memory({"planner": (3, 2), "critic": (2, 1)}, texts={"judge": "No."}),
        make_memory({"planner": (3, 2), "critic": (2, 1)}, texts={"judge": "Yes."}, seed=1),
        replace(CHAIN, question="?"),
        replace(CHAIN, reads=CHAIN.reads[0].reads + CHAIN.reads),
        "memory",
    ):
        assert other != CHAIN
    nan = replace(CHAIN.segments["planner"], kv=InMemoryKV.of(SPEC, (5,), torch.full((2, 2, 2, 5, 4), torch.nan)))
    assert nan == nan.from_chunks([nan.to_chunk()])


class TestParts:
    def test_agents_and_segments_belong_together(self) -> None:
        with pytest.raises(SegmentError, match="'critic' has no segment"):
            replace(CHAIN, segments={"planner": CHAIN.segments["planner"]})
        with pytest.raises(SegmentError, match="'critic' has no place"):
            replace(CHAIN, reads=CHAIN.reads[0].reads)
        with pytest.raises(SegmentError, match="at least one agent"):
            Memory(model="m", question="?", reads=(), segments={})

    def test_of_one_model_and_either_with_kv_or_without(self) -> None:
        planner = CHAIN.segments["planner"]
        with pytest.raises(SegmentError, match="all segments"):
            replace(CHAIN, segments={**CHAIN.segments, "planner": planner.without_kv()})
        other = make_memory({"planner": (3, 2)}, spec=replace(SPEC, weights_revision="r1")).segments["planner"]
        with pytest.raises(IncompatibleMemoryError, match="weights_revision"):
            replace(CHAIN, segments={**CHAIN.segments, "planner": other})

    @pytest.mark.parametrize("name", ["", "two\nlines", "\udcff"])
    def test_names_can_be_shown(self, name: str) -> None:
        with pytest.raises(SegmentError, match="cannot be called"):
            replace(CHAIN, texts={name: "Yes."})

    def test_an_agent_has_read_one_thing(self) -> None:
        twice = (AgentMemory("planner"), AgentMemory("critic", (AgentMemory("planner", (AgentMemory("critic"),)),)))
        with pytest.raises(SegmentError, match="different memories"):
            replace(CHAIN, reads=twice)
        itself = AgentMemory("planner", (AgentMemory("planner"),))
        with pytest.raises(SegmentError, match="different memories"):
            replace(CHAIN, reads=(itself,))

    def test_trees_that_no_reader_could_walk_are_refused(self) -> None:
        wide = [AgentMemory("a0"), AgentMemory("b0")]
        deep = AgentMemory("a0")
        for level in range(1, 40):
            wide = [AgentMemory(f"a{level}", tuple(wide)), AgentMemory(f"b{level}", tuple(wide))]
        for level in range(1, 5000):
            deep = AgentMemory(f"a{level}", (deep,))
        for reads in (tuple(wide), (deep,)):
            with pytest.raises(SegmentError, match="through too many other agents"):
                replace(CHAIN, reads=reads)

    def test_of_one_question_and_a_whole_model(self) -> None:
        two = make_segment([(1, 0), (1, 0)])
        with pytest.raises(SegmentError, match="one question"):
            MemorySegment(two.meta, two.recompute_inputs, two.kv)
        one = of_rank(make_segment([(1, 1)]), RANKS[0])
        with pytest.raises(SegmentError, match="rank 0 of 2"):
            MemorySegment(one.meta, one.recompute_inputs, one.kv)

    def test_whose_parts_do_not_contradict_each_other(self) -> None:
        segment, other = make_segment([(2, 1)]), make_segment([(1, 1)])
        wrong = replace(segment.recompute_inputs, token_ids_T=torch.tensor([1, -1, -2]))
        for kv in (segment.kv, None):
            for inputs in (
                other.recompute_inputs,
                wrong,
                replace(segment.recompute_inputs, latents_NE=torch.zeros(1, 5)),
            ):
                with pytest.raises(SegmentError):
                    MemorySegment(segment.meta, inputs, kv)
        with pytest.raises(SegmentError, match="KV of"):
            MemorySegment(segment.meta, segment.recompute_inputs, other.kv)


class TestFromTurns:
    @given(segments(), st.data())
    def test_each_question_of_a_batch_in_one_chunk_or_two(self, batch: Segment, data: st.DataObject) -> None:
        inputs = [data.draw(st.integers(0, length)) for length in batch.recompute_inputs.lengths]
        question = data.draw(st.integers(0, batch.num_questions - 1))
        for chunks in (cut(batch, inputs), [SegmentChunk.whole(batch)]):
            memory = Memory.from_chunks({"planner": chunks}, question, **FIELDS)
            assert_equal(join([memory.segments["planner"].to_chunk()]), take(batch, [question]))

    @given(segments(max_questions=2), st.data())
    def test_as_recompute_inputs(self, batch: Segment, data: st.DataObject) -> None:
        inputs = [data.draw(st.integers(0, length)) for length in batch.recompute_inputs.lengths]
        chunks = [SegmentChunk.without_kv(chunk.meta, chunk.recompute_inputs) for chunk in cut(batch, inputs)]
        for question in range(batch.num_questions):
            memory = Memory.from_wire({"planner": on_the_wire(chunks)}, question, **FIELDS)
            expected = MemorySegment.from_chunks([SegmentChunk.whole(batch)], question)
            assert memory.segments["planner"].without_kv() == expected.without_kv()
            assert memory.has_kv is (batch.kv.layout.num_tokens == 0)

    @given(segments(max_questions=2), st.data())
    def test_from_all_ranks_of_a_divided_model(self, batch: Segment, data: st.DataObject) -> None:
        inputs = [data.draw(st.integers(0, length)) for length in batch.recompute_inputs.lengths]
        by_rank = [cut(of_rank(batch, shard), inputs) for shard in RANKS]
        chunks = [by_rank[1][0], by_rank[0][0], by_rank[0][1], by_rank[1][1]]  # as they come
        for question in range(batch.num_questions):
            memory = Memory.from_wire({"planner": on_the_wire(chunks)}, question, **FIELDS)
            assert_equal(join([memory.to_chunks()["planner"]]), take(batch, [question]))

    def test_of_a_divided_model_one_rank_has_all_recompute_inputs(self) -> None:
        batch = make_segment([(3, 2), (1, 1)])
        chunks = [SegmentChunk.without_kv(of_rank(batch, RANKS[1]).meta, batch.recompute_inputs)]
        memory = Memory.from_chunks({"planner": chunks}, 1, **FIELDS)
        assert memory.segments["planner"] == MemorySegment.from_chunks([SegmentChunk.whole(batch)], 1).without_kv()

    def test_what_is_missing_is_told(self) -> None:
        batch = make_segment([(3, 2)])
        first, second = cut(batch, [2])
        without = [SegmentChunk.without_kv(chunk.meta, chunk.recompute_inputs) for chunk in (first, second)]
        ranks = [SegmentChunk.whole(of_rank(batch, shard)) for shard in RANKS]
        halves = cut(of_rank(batch, RANKS[1]), [2])
        elsewhere = make_segment([(3, 2)], turn_starts=[1]).meta
        others = [without[0], SegmentChunk.without_kv(elsewhere, without[1].recompute_inputs)]
        for chunks in ([], [first], [second, first], without[:1], others, ranks[:1], [ranks[0], *halves]):
            with pytest.raises(SegmentError):
                Memory.from_chunks({"planner": chunks}, **FIELDS)
        with pytest.raises(SegmentError, match="no question 1"):
            Memory.from_chunks({"planner": [first, second]}, 1, **FIELDS)

    def test_where_one_came_without_its_kv_none_has_it(self) -> None:
        chunks = CHAIN.to_chunks()
        chunks["critic"] = CHAIN.without_kv().to_chunks()["critic"]
        fields = {"model": CHAIN.model, "question": CHAIN.question, "reads": CHAIN.reads, "texts": CHAIN.texts}
        assert Memory.from_chunks({name: [chunk] for name, chunk in chunks.items()}, **fields) == CHAIN.without_kv()

    def test_its_bytes_are_its_own(self) -> None:
        header, body = on_the_wire([SegmentChunk.whole(make_segment([(3, 2), (1, 1)]))])[0]
        body = body.copy()
        memory = Memory.from_wire({"planner": [(header, body)]}, 1, **FIELDS)
        before = memory.segments["planner"].kv_LCHTD
        assert before is not None
        kept = before.clone()
        body[:] = 0
        assert torch.equal(before, kept)
        assert len(pickle.dumps(memory)) < 4000  # nothing of the other question
        body[0] = 1
        with pytest.raises(WireError, match="damaged"):
            Memory.from_wire({"planner": [(header, body)]}, **FIELDS)


class TestToTurns:
    @given(memories())
    def test_there_and_back(self, memory: Memory) -> None:
        wire = {agent: [chunk] for agent, chunk in memory.to_wire().items()}
        assert tuple(wire) == memory.agents
        again = Memory.from_wire(
            wire, model=memory.model, question=memory.question, reads=memory.reads, texts=memory.texts
        )
        # Where there is no token at all, chunks cannot tell whether their KV was left out.
        assert again == memory or not any(segment.num_tokens for segment in memory.segments.values())

    @given(segments(max_questions=1), st.integers(0, 3))
    def test_repeated_for_each_question_of_a_batch(self, segment: Segment, num_questions: int) -> None:
        own = MemorySegment.from_chunks([SegmentChunk.whole(segment)])
        chunk = repeat(own.to_chunk(), num_questions)
        assert_equal(join([chunk]), take(segment, [0] * num_questions))
        small = repeat(own.without_kv().to_chunk(), num_questions)
        assert small.meta == chunk.meta
        assert small.recompute_inputs.lengths == chunk.recompute_inputs.lengths
        assert not have_kv([small]) or chunk.num_bytes == 0

    def test_only_one_question_can_be_repeated(self) -> None:
        with pytest.raises(SegmentError, match="one question"):
            repeat(SegmentChunk.whole(make_segment([(1, 0), (1, 0)])), 2)


class TestFit:
    def test_the_model_that_wrote_it(self) -> None:
        CHAIN.check_fits(SPEC, "test-model")
        CHAIN.check_fits(SPEC.of_shard(TPRank(1, 2)), "a copy of it")
        replace(CHAIN, reads=(), segments={}).check_fits(replace(SPEC, weights_revision="r1"), "any")

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            ({"weights_revision": "r1"}, "weights_revision is 'r0', not 'r1'"),
            ({"num_layers": 3}, "num_layers is 2, not 3"),
            ({"dtype": "bfloat16"}, "dtype is 'float32', not 'bfloat16'"),
            ({"rope": replace(SPEC.rope, inv_freq=(1.0, 0.2))}, "rope is "),
        ],
    )
    def test_another_one_is_refused_in_one_line(self, change: dict[str, object], told: str) -> None:
        with pytest.raises(
            MemoryInputError, match=r"working memory: got 'test-model'; .*other-model cannot read it"
        ) as error:
            CHAIN.check_fits(reshaped(SPEC, **change), "other-model")  # type: ignore[arg-type]
        assert told in str(error.value)
        assert len(str(error.value)) < 300


class TestMerge:
    def test_parallel_branches_in_order(self) -> None:
        first, second = make_memory({"red": (3, 1)}, texts={"x": "1"}), make_memory({"blue": (2, 2)}, seed=5)
        merged = Memory.merge([first, second])
        assert merged.reads == (AgentMemory("red"), AgentMemory("blue"))
        assert merged.positions() == {"red": (0, 4), "blue": (4, 8)}
        assert merged.texts == {"x": "1"}
        assert merged.question == first.question
        assert Memory.merge([second, first]).agents == ("blue", "red")

    def test_agents_of_one_name_get_a_number_everywhere(self) -> None:
        parts = [
            make_memory({"planner": (3, 1), "critic": (1, 1)}, texts={"judge": text, "critic": text}, seed=seed)
            for seed, text in ((0, "A"), (7, "B"), (20, "C"))
        ]
        merged = Memory.merge(parts)
        assert merged.agents == ("planner", "critic", "planner-2", "critic-2", "planner-3", "critic-3")
        assert merged.reads[1] == AgentMemory("critic-2", (AgentMemory("planner-2"),))
        assert merged.segments["planner-3"] == parts[2].segments["planner"]
        assert list(merged.texts) == ["judge", "critic", "judge-2", "critic-2", "judge-3", "critic-3"]
        assert merged.texts["critic-3"] == merged.texts["judge-3"] == "C"
        assert Memory.merge([Memory.merge(parts[:2]), parts[2]]) == merged

    def test_what_is_the_same_stands_there_once(self) -> None:
        assert Memory.merge([CHAIN, CHAIN]) == Memory.merge([CHAIN]) == CHAIN
        other = make_memory({"planner": (1, 1)}, seed=9)
        twice = Memory.merge([CHAIN, other])
        assert Memory.merge([twice, other]) == twice
        planner = make_memory({"planner": (3, 2)})
        assert Memory.merge([planner, CHAIN]).agents == ("planner", "critic")

    def test_no_name_is_given_that_another_agent_has(self) -> None:
        merged = Memory.merge(
            [
                make_memory({"a": (1, 0)}),
                make_memory({"a": (1, 0)}, seed=1),
                make_memory({"a-2": (1, 0)}, seed=2),
                make_memory({"n" * 64: (1, 0)}),
                make_memory({"n" * 64: (1, 0)}, seed=3),
            ]
        )
        assert merged.agents == ("a", "a-3", "a-2", "n" * 64, "n" * 62 + "-2")

    def test_kv_is_kept_if_all_have_theirs(self) -> None:
        other = make_memory({"other": (1, 1)})
        assert Memory.merge([CHAIN, other]).has_kv
        assert Memory.merge([CHAIN, other.without_kv()]) == Memory.merge([CHAIN, other]).without_kv()

    def test_questions_that_differ_are_all_told(self) -> None:
        merged = Memory.merge([CHAIN, replace(CHAIN, question="And 7 times 8?"), CHAIN])
        assert merged.question == "What is 6 times 7?\nAnd 7 times 8?"

    @pytest.mark.parametrize("spec", [spec_of("bfloat16"), replace(SPEC, weights_revision="r1")])
    def test_of_other_models_it_is_refused(self, spec: object) -> None:
        with pytest.raises(IncompatibleMemoryError):
            Memory.merge([CHAIN, make_memory({"other": (1, 1)}, spec=spec)])  # type: ignore[arg-type]
        with pytest.raises(SegmentError, match="no memory"):
            Memory.merge([])

    @given(st.lists(memories().filter(lambda memory: memory.spec == SPEC), max_size=3, min_size=1))
    def test_nothing_is_lost(self, parts: list[Memory]) -> None:
        merged = Memory.merge(parts)
        for part in parts:
            for segment in part.segments.values():
                assert any(segment.without_kv() == one.without_kv() for one in merged.segments.values())
        assert merged.num_tokens <= sum(part.num_tokens for part in parts)
        assert merged.num_positions >= max((stop for _, stop in merged.positions().values()), default=0)
