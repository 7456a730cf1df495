"""What a question gets does not depend on the questions beside it, before it or after it in the same engine."""

import gc
import weakref
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from latentmas_ray.engine.engine import Engine
from latentmas_ray.engine.turn import Sampling
from latentmas_ray.memory import Segment, merge_layout
from latentmas_ray.models.cache import BatchCache
from tests.numerics.conftest import MakeEngine
from tests.numerics.turns import assert_close, begin, logits_of, memory, place_chain, prompts_of, think

# Prompt lengths of eight questions for planner, critic and judger: rows grow at different speeds.
LENGTHS = {"a": [9, 1, 33, 4, 17, 2, 25, 12], "b": [3, 20, 1, 8, 8, 40, 2, 5], "c": [6, 6, 2, 30, 1, 11, 9, 3]}
PROMPTS = {agent: prompts_of(lengths, seed=ord(agent)) for agent, lengths in LENGTHS.items()}
NUM_STEPS = 3
GREEDY = Sampling(max_new_tokens=6)


@dataclass
class Outcome:
    segments: dict[str, Segment]
    logits_BV: Tensor
    answers: list[list[int]]


def run_chain(engine: Engine, questions: list[int], sampling: Sampling = GREEDY) -> Outcome:
    """Two agents think, a third answers, for some of the questions."""
    prompts = {agent: [own[question] for question in questions] for agent, own in PROMPTS.items()}
    segments = {"a": think(engine, prompts["a"], NUM_STEPS)}
    segments["b"] = think(engine, prompts["b"], NUM_STEPS, place_chain(segments))
    session = begin(engine, prompts["c"], place_chain(segments))
    logits = logits_of(session).clone()
    return Outcome(segments, logits, session.decode(sampling, "c"))


def test_eight_questions_at_once_are_eight_questions_alone(engine: Engine) -> None:
    together = run_chain(engine, list(range(8)))
    for question in range(8):
        alone = run_chain(engine, [question])
        assert_close(together.logits_BV[question], alone.logits_BV[0])
        assert together.answers[question] == alone.answers[0]
        for agent, segment in together.segments.items():
            assert_close(segment.kv_of(question), alone.segments[agent].kv_of(0))


def test_order_and_company_do_not_matter(engine: Engine) -> None:
    together = run_chain(engine, list(range(8)))
    others = [6, 1, 3]
    mixed = run_chain(engine, others)
    for row, question in enumerate(others):
        assert_close(mixed.logits_BV[row], together.logits_BV[question])
        assert mixed.answers[row] == together.answers[question]


def parallel(engine: Engine, questions: list[int]) -> Tensor:
    """The logits of a reader of two branches."""
    prompts = {agent: [own[question] for question in questions] for agent, own in PROMPTS.items()}
    segments = {agent: think(engine, prompts[agent], NUM_STEPS) for agent in ("a", "b")}
    placement = merge_layout([memory("a"), memory("b")], segments, len(questions))
    return logits_of(begin(engine, prompts["c"], placement)).clone()


def test_merged_branches_are_each_question_s_own(engine: Engine) -> None:
    together = parallel(engine, list(range(8)))
    for question in (0, 1, 2, 5):
        assert_close(together[question], parallel(engine, [question])[0])


def test_a_neighbour_that_finishes_early_changes_nothing(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some tokens of the undisturbed answers are declared end tokens: rows then leave at different steps."""
    lively = Sampling(max_new_tokens=10, temperature=1.0)
    undisturbed = run_chain(engine, list(range(8)), lively).answers
    stops = {answer[step] for step, answer in enumerate(undisturbed[:5], start=1) if len(answer) > step}
    monkeypatch.setattr(engine.lm.chat, "stop_ids", engine.lm.chat.stop_ids | stops)
    cut = [answer[: next((i for i, t in enumerate(answer) if t in stops), None)] for answer in undisturbed]
    assert len({len(answer) for answer in cut}) > 2, "the rows leave together: the case tests nothing"
    assert run_chain(engine, list(range(8)), lively).answers == cut


def fill(cache: BatchCache, value: float) -> None:
    for layer in cache.layers:
        layer.kv_CBHTD[:, : len(cache.lengths), :, : max(cache.lengths)] = value


@pytest.mark.parametrize("left_over", [1e6, float("nan"), float("inf")])
def test_what_an_earlier_larger_batch_left_changes_nothing(left_over: float, engine_of: MakeEngine) -> None:
    engine = engine_of("qwen3")
    session = begin(engine, prompts_of([60] * 8))
    fill(session.cache, left_over)
    before = run_chain(engine_of("qwen3"), [0, 2])
    after = run_chain(engine, [0, 2])
    assert torch.equal(after.logits_BV, before.logits_BV)
    assert after.answers == before.answers


def test_a_neighbour_without_numbers_harms_nobody(engine_of: MakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A question whose KV overflowed leaves the batch; the row that takes its place must not see its remains."""
    engine = engine_of("qwen3")
    prompts = prompts_of([40, 45, 6])
    clean = begin(engine, prompts).decode(GREEDY, "c")
    session = begin(engine, prompts)
    for layer in session.cache.layers:
        layer.kv_CBHTD[:, 0, :, :40] = float("nan")
    # Row 0 ends at once, and row 2, which is short, takes its place; row 1 keeps the forward wide.
    monkeypatch.setattr(engine.lm.chat, "stop_ids", frozenset({int(logits_of(session)[0].argmax())}))
    answers = session.decode(GREEDY, "c")
    assert answers[0] == []
    assert answers[1:] == clean[1:]


def test_caches_are_reused_and_grow(engine_of: MakeEngine) -> None:
    engine = engine_of("qwen3")
    large = begin(engine, prompts_of([300] * 3)).cache
    assert begin(engine, prompts_of([5])).cache is large
    assert begin(engine, prompts_of([5] * 4)).cache is not large


def test_a_cache_that_was_replaced_is_gone_at_once(engine_of: MakeEngine) -> None:
    engine = engine_of("qwen3")
    gc.disable()  # memory must not wait for the garbage collector
    try:
        session = begin(engine, prompts_of([5]))
        replaced = weakref.ref(session.cache)
        del session
        begin(engine, prompts_of([5]), room=3000)
        assert replaced() is None
    finally:
        gc.enable()
