"""Families whose layers see a window, rotate in their own way or not at all: each computes what transformers alone does
with the family's own attention, hands over without loss, and merges exactly."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from latentmas_ray.engine.engine import Engine
from latentmas_ray.engine.turn import Sampling
from latentmas_ray.errors import ContextLengthError, ModelError
from latentmas_ray.memory import MergedLayout, Segment, SegmentChunk, merge_layout, rotate_keys
from latentmas_ray.memory.codec import encode_kv
from latentmas_ray.memory.wire import decode_chunk, encode_chunk
from latentmas_ray.models import load_model, wrap
from latentmas_ray.models.devices import check_divisible
from latentmas_ray.models.presets import tiny_tokenizer
from tests.numerics.plain import Plain
from tests.numerics.position_families import ALL, build, make
from tests.numerics.turns import assert_close, begin, logits_of, memory, place_chain, prompts_of, think

LENGTHS = [7, 1, 30, 12]  # below and above the window of 8
NUM_STEPS = 4
Alone = Callable[[], Plain]
TIGHT = 2e-5


@pytest.fixture(scope="module", params=ALL)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder: Path = tmp_path_factory.mktemp("realign")
    return Engine(make(request.param), cache_dir=folder)


@pytest.fixture(scope="module")
def alone(engine: Engine) -> Alone:
    """Transformers alone: the same weights with the family's own attention, for a new question each time."""
    lm = replace(engine.lm, model=build(ALL[engine.lm.name]()))
    assert lm.model.config._attn_implementation == "eager"
    return lambda: Plain(lm, engine.rule)


def test_a_turn_is_the_plain_loop(engine: Engine, alone: Alone) -> None:
    prompts = prompts_of(LENGTHS)
    session = begin(engine, prompts)
    before = logits_of(session).clone()
    session.think(NUM_STEPS)
    segment = session.emit()
    after = logits_of(session).clone()
    bounds = [3, 12, 5, 12]  # rows leave one after another
    answers = session.decode(Sampling(max_new_tokens=12), "judger", bounds=bounds)
    for row, prompt in enumerate(prompts):
        plain = alone().feed(prompt)
        assert_close(before[row], plain.logits_V, TIGHT)
        plain.think(NUM_STEPS)
        assert_close(after[row], plain.logits_V, TIGHT)
        assert_close(segment.kv_of(row), plain.kv(), TIGHT)
        assert answers[row] == plain.decode(bounds[row])


def test_what_a_reader_gets_is_what_it_would_compute_from_the_inputs(engine: Engine, alone: Alone) -> None:
    segments = {"a": think(engine, prompts_of([5, 21]), NUM_STEPS)}
    segments["b"] = think(engine, prompts_of([9, 3], 1), NUM_STEPS, place_chain(segments))
    segments = {name: through_the_wire(segment) for name, segment in segments.items()}
    prompts = prompts_of([6, 14], 2)
    session = begin(engine, prompts, place_chain(segments))
    for row, prompt in enumerate(prompts):
        plain = alone()
        for segment in segments.values():
            plain.recompute(segment.recompute_inputs.take([row]))
        assert_close(logits_of(session)[row], plain.feed(prompt).logits_V, TIGHT)


def through_the_wire(segment: Segment) -> Segment:
    header, body = encode_chunk(SegmentChunk.whole(segment))
    chunk = decode_chunk(header, body.clone())
    assert chunk.meta == segment.meta
    assert torch.equal(chunk.kv_LCHTD, segment.kv_LCHTD)
    return Segment(chunk.meta, chunk.kv, chunk.recompute_inputs)


def test_the_codecs_take_its_memory(engine: Engine) -> None:
    segment = think(engine, prompts_of([5, 21]), NUM_STEPS)
    for codec in ("bf16", "int8", "int4"):
        assert encode_kv(segment.kv_LCHTD, segment.lengths, codec).numel()


def answers_and_logits(engine: Engine, questions: list[int]) -> tuple[Tensor, list[list[int]]]:
    """A merge of two branches, read by a third agent."""
    prompts = {name: prompts_of([9, 1, 33, 4, 17], seed) for seed, name in enumerate("abc")}
    own = {name: [prompts[name][question] for question in questions] for name in prompts}
    segments = {name: think(engine, own[name], NUM_STEPS) for name in "ab"}
    session = begin(engine, own["c"], merge_layout([memory("a"), memory("b")], segments, len(questions)))
    logits = logits_of(session).clone()
    return logits, session.decode(Sampling(max_new_tokens=12), "c")


def test_a_question_does_not_depend_on_its_neighbours(engine: Engine) -> None:
    logits, answers = answers_and_logits(engine, [0, 1, 2, 3, 4])
    for question in range(5):
        own, answer = answers_and_logits(engine, [question])
        assert_close(own[0], logits[question], TIGHT)
        assert answer[0] == answers[question]


def computed_at(engine: Engine, position: int) -> Segment:
    session = engine.open(["q0", "q1"], num_slots=64)
    session.absorb(MergedLayout((), (position, position)))
    session.prefill(prompts_of([12, 5]))
    session.think(3)
    return session.emit()


@pytest.mark.parametrize("shift", [1, 37, 150])
def test_a_moved_segment_is_the_segment_computed_there(engine: Engine, shift: int) -> None:
    here, there = computed_at(engine, 0), computed_at(engine, shift)
    moved = here.kv_LCHTD.clone()
    for layer, rope in enumerate(engine.lm.spec.ropes):
        moved[layer, 0] = rotate_keys(here.kv_LCHTD[layer, 0], shift, rope)
    assert_close(moved, there.kv_LCHTD, TIGHT)


LIMITED = {
    "longrope": (256, "its RoPE (longrope) has other frequencies beyond 256"),
    "dynamic": (256, "its RoPE (dynamic) changes with the length beyond 256"),
    "ministral3": (256, "it scales attention by the position from 256 on"),
}


@pytest.mark.parametrize("family", LIMITED)
def test_only_the_positions_of_one_regime_are_used(family: str, tmp_path: Path) -> None:
    limit, reason = LIMITED[family]
    engine = Engine(make(family), cache_dir=tmp_path)
    lm = engine.lm
    assert lm.max_positions == limit
    session = engine.open(["q"], num_slots=300)
    session.absorb(MergedLayout((), (limit - 12,)))
    session.prefill(prompts_of([12]))
    with pytest.raises(ContextLengthError, match=re.escape(f"model {family} can use {limit}: {reason}; use fewer")):
        session.think(1)


def test_llama_4_uses_the_positions_of_one_chunk_whatever_is_beside_a_question(tmp_path: Path) -> None:
    """It takes a query's position from the length of its cache, which has all rows of a batch one after another."""
    config = ALL["llama4"]()
    config.attention_chunk_size, config.floor_scale = 64, 60
    lm = wrap(build(config), tiny_tokenizer(), "llama4")
    assert lm.max_positions == 59
    assert lm.spec.windows == (None, None)
    engine = Engine(lm, cache_dir=tmp_path)
    prompts = prompts_of([50, 35, 20, 53])
    together = logits_of(begin(engine, prompts, room=4)).clone()
    plain = replace(lm, model=build(config))
    for row, prompt in enumerate(prompts):
        assert_close(together[row], Plain(plain, engine.rule).feed(prompt).logits_V, TIGHT)


@pytest.mark.parametrize("family", ["gemma2", "gpt_oss", "cohere2", "llama4"])
def test_bf16_is_near_fp32(family: str, tmp_path: Path) -> None:
    prompts = prompts_of(LENGTHS)
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        session = begin(Engine(make(family, dtype), cache_dir=tmp_path), prompts)
        session.think(2)
        results.append(logits_of(session).clone())
    assert_close(results[1], results[0], 0.15)


def test_gpt_oss_is_loaded_from_a_folder(tmp_path: Path) -> None:
    """transformers refuses `sdpa` for it."""
    lm = make("gpt_oss")
    lm.model.save_pretrained(tmp_path)
    lm.chat.tokenizer.save_pretrained(tmp_path)
    assert load_model(str(tmp_path)).spec == lm.spec


def test_gpt_oss_is_not_divided() -> None:
    with pytest.raises(ModelError, match="tp: got '2'; it must be 1: transformers has no tensor-parallel plan"):
        check_divisible(ALL["gpt_oss"](), "m", 2)
