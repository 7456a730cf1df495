"""A reader that is given recompute inputs computes the memory that it would have been sent."""

import pickle
from collections.abc import Iterable
from dataclasses import replace
from itertools import chain, combinations

import pytest
import torch

from latentmas_ray.engine.runner import TurnRunner
from latentmas_ray.engine.turn import KeepRule, Prompt, Sampling, TurnRequest, TurnResult
from latentmas_ray.memory import SegmentChunk, join, join_recompute_inputs
from latentmas_ray.memory.buffers import empty_bytes
from latentmas_ray.topology.agent import AgentMemory, HandsOver
from tests.numerics.conftest import MakeEngine
from tests.numerics.turns import TOLERANCE

QUESTIONS = ("short?", "a much longer question?", "q?")
A = AgentMemory("a")
B = AgentMemory("b", (A,))
C = AgentMemory("c", (A,))
TREES = {"chain": (B,), "branches": (AgentMemory("a"), AgentMemory("d")), "diamond": (B, C)}


def order(agent: str, reads: tuple[AgentMemory, ...] = (), **changes: object) -> TurnRequest:
    prompts = tuple(Prompt(messages=({"role": "user", "content": f"{agent}: {text}"},)) for text in QUESTIONS)
    work = TurnRequest(
        agent=agent,
        batch=0,
        question_ids=QUESTIONS,
        prompts=prompts,
        thinks="latent",
        latent_steps=3,
        sampling=Sampling(max_new_tokens=8),
        reads=reads,
    )
    return replace(work, **changes)  # type: ignore[arg-type]


class Sent:
    """Memory as a reader gets it: in one or two chunks, with or without its KV."""

    def __init__(self, chunks: dict[str, list[SegmentChunk]]) -> None:
        self._chunks = chunks

    def segments(self) -> dict[str, object]:
        return {name: join(chunks) if chunks[0].is_whole else chunks[0].meta for name, chunks in self._chunks.items()}

    def chunks(self) -> Iterable[tuple[str, SegmentChunk]]:
        return chain.from_iterable(((name, chunk) for chunk in chunks) for name, chunks in self._chunks.items())

    def chunks_of(self, agent: str) -> Iterable[SegmentChunk]:
        return iter(self._chunks[agent])


class Kept:
    """Keeps what a turn publishes."""

    overlaps = True
    reserve = staticmethod(empty_bytes)

    def __init__(self) -> None:
        self.chunks: list[SegmentChunk] = []

    def publish(self, final_at: float, chunk: SegmentChunk) -> None:
        self.chunks.append(chunk)


def chunks_of(
    runner: TurnRunner, work: TurnRequest, sent: dict[str, list[SegmentChunk]], *, early: bool
) -> list[SegmentChunk]:
    kept = Kept()
    whole, _ = runner.run(work, Sent(sent), outgoing=kept if early else None)  # type: ignore[arg-type]
    return kept.chunks if whole is None else [detached(whole)]


def detached(chunk: SegmentChunk) -> SegmentChunk:
    """The chunk as if it had been sent: it lies in no cache."""
    return chunk if not chunk.is_whole else replace(chunk, kv=pickle.loads(pickle.dumps(chunk.kv)))


def memory_of(
    runner: TurnRunner,
    tree: tuple[AgentMemory, ...],
    recomputed: frozenset[str],
    hands_over: HandsOver,
    *,
    early: bool,
    keep: KeepRule | None = None,
) -> dict[str, list[SegmentChunk]]:
    sent: dict[str, list[SegmentChunk]] = {}

    def visit(node: AgentMemory) -> None:
        if node.agent in sent:
            return
        for before in node.reads:
            visit(before)
        names = {name for before in node.reads for name in before.agents()}
        work = order(
            node.agent,
            node.reads,
            hands_over=hands_over,
            keep=keep,
            recomputed=recomputed & names,
            transfer_mode="recompute" if node.agent in recomputed else "kv",
        )
        sent[node.agent] = chunks_of(runner, work, {name: sent[name] for name in names}, early=early)

    for node in tree:
        visit(node)
    return sent


def answer(
    runner: TurnRunner, tree: tuple[AgentMemory, ...], sent: dict[str, list[SegmentChunk]], recomputed: frozenset[str]
) -> TurnResult:
    work = order("judger", tree, thinks="text", recomputed=recomputed)
    _, report = runner.run(work, Sent(sent))  # type: ignore[arg-type]
    return report


@pytest.fixture
def runner(engine_of: MakeEngine) -> TurnRunner:
    return TurnRunner(engine_of("qwen3"))


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("hands_over", ["all", "prompt", "latents"])
@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
def test_recipes_give_the_memory_and_the_answer_that_kv_gives(
    runner: TurnRunner, tree: tuple[AgentMemory, ...], hands_over: HandsOver, early: bool
) -> None:
    names = list(dict.fromkeys(name for node in tree for name in node.agents()))
    sent = memory_of(runner, tree, frozenset(), hands_over, early=early)
    expected = answer(runner, tree, sent, frozenset())
    for recomputed in (frozenset(some) for count in (1, len(names)) for some in combinations(names, count)):
        as_recipes = memory_of(runner, tree, recomputed, hands_over, early=early)
        for name in recomputed:
            assert sum(chunk.num_bytes for chunk in as_recipes[name]) == 0
            ours, theirs = (
                join_recompute_inputs(
                    [chunk.recompute_inputs for chunk in chunks[name]], chunks[name][0].meta.turn_lengths
                )
                for chunks in (as_recipes, sent)
            )
            assert torch.equal(ours.token_ids_T, theirs.token_ids_T)
            torch.testing.assert_close(ours.latents_NE, theirs.latents_NE, atol=TOLERANCE, rtol=0)
        report = answer(runner, tree, as_recipes, recomputed)
        assert report.output_token_ids == expected.output_token_ids
        assert report.memory_tokens == expected.memory_tokens
