"""Memory that was kept, saved and loaded gives the answer that it would have given at once."""

from dataclasses import replace
from pathlib import Path

import pytest

from latentmas_ray.engine.runner import TurnRunner
from latentmas_ray.engine.turn import TurnResult
from latentmas_ray.errors import SegmentError
from latentmas_ray.memory import Memory, MemorySegment, SegmentChunk, repeat
from latentmas_ray.topology.agent import AgentMemory
from tests.numerics.conftest import MakeEngine
from tests.numerics.test_recompute import QUESTIONS, TREES, Sent, answer, memory_of, order


@pytest.fixture
def runner(engine_of: MakeEngine) -> TurnRunner:
    return TurnRunner(engine_of("qwen3"))


def keep(sent: dict[str, list[SegmentChunk]], tree: tuple[AgentMemory, ...], question: int) -> Memory:
    return Memory.from_chunks(sent, question, model="qwen3", question=QUESTIONS[question], reads=tree)


def ask(runner: TurnRunner, memory: Memory, questions: tuple[int, ...]) -> TurnResult:
    """The reader's turn over these questions, all of which have the same memory."""
    work = order("judger", memory.reads, thinks="text")
    work = replace(
        work,
        question_ids=tuple(work.question_ids[question] for question in questions),
        prompts=tuple(work.prompts[question] for question in questions),
        recomputed=frozenset() if memory.has_kv else frozenset(memory.agents),
    )
    chunks = {agent: [repeat(chunk, len(questions))] for agent, chunk in memory.to_chunks().items()}
    return runner.run(work, Sent(chunks))[1]  # type: ignore[arg-type]


@pytest.mark.parametrize("kv", [True, False])
@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
def test_saved_and_loaded_with_its_kv_or_without(
    runner: TurnRunner, tree: tuple[AgentMemory, ...], kv: bool, tmp_path: Path
) -> None:
    sent = memory_of(runner, tree, frozenset(), "all", early=True)
    expected = answer(runner, tree, sent, frozenset())
    for question in range(len(QUESTIONS)):
        memory = keep(sent, tree, question)
        memory.check_fits(runner.spec, "qwen3")
        memory.save(tmp_path / "memory.safetensors", kv=kv)
        report = ask(runner, Memory.load(tmp_path / "memory.safetensors"), (question,))
        assert report.output_token_ids[0] == expected.output_token_ids[question]
        assert report.memory_tokens[0] == expected.memory_tokens[question]


@pytest.mark.parametrize("kv", [True, False])
def test_the_same_memory_for_every_question_of_a_batch(runner: TurnRunner, kv: bool) -> None:
    memory = keep(memory_of(runner, TREES["chain"], frozenset(), "all", early=False), TREES["chain"], 1)
    memory = memory if kv else memory.without_kv()
    together = ask(runner, memory, (0, 1, 2))
    alone = [ask(runner, memory, (question,)).output_token_ids[0] for question in range(3)]
    assert list(together.output_token_ids) == alone


def test_merged_memories_are_read_with_their_kv_and_without_alike(runner: TurnRunner) -> None:
    sent = memory_of(runner, TREES["chain"], frozenset(), "all", early=False)
    merged = Memory.merge([keep(sent, TREES["chain"], question) for question in (0, 1)])
    assert merged.agents == ("a", "b", "a-2", "b-2")
    with_kv, without = ask(runner, merged, (2,)), ask(runner, merged.without_kv(), (2,))
    assert with_kv.output_token_ids == without.output_token_ids
    assert with_kv.memory_tokens == without.memory_tokens


def test_token_ids_that_the_model_has_not_are_refused(runner: TurnRunner) -> None:
    segment = keep(memory_of(runner, TREES["chain"], frozenset(), "all", early=False), TREES["chain"], 0).segments["a"]
    ids_T = segment.inputs.token_ids_T.clone()
    ids_T[0] = runner.engine.lm.num_embeddings
    forged = MemorySegment(segment.meta, replace(segment.inputs, token_ids_T=ids_T))
    memory = Memory(model="?", question="?", reads=(AgentMemory("a"),), segments={"a": forged})
    with pytest.raises(SegmentError, match="token"):
        ask(runner, memory, (0,))
