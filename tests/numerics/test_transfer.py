"""A reader of transferred memory gets the logits that it would get by feeding the predecessors' inputs itself."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from latentmas_ray.engine.engine import Engine
from latentmas_ray.engine.turn import Sampling
from latentmas_ray.errors import ContextLengthError, IncompatibleMemoryError
from latentmas_ray.memory import LATENT, InMemoryKV, LayerSpec, Segment, TensorSpec, merge_layout
from latentmas_ray.models.cache import BatchCache
from tests.cases.memory import take, window_of
from tests.cases.wire import from_bytes, to_bytes
from tests.numerics.conftest import MakeEngine
from tests.numerics.families import make_lm, with_limit
from tests.numerics.plain import Plain
from tests.numerics.turns import assert_close, begin, logits_of, memory, place_chain, prompts_of, think

PROMPTS = {"a": prompts_of([9, 2, 21], 1), "b": prompts_of([4, 15, 1], 2), "c": prompts_of([5, 3, 8], 3)}
NUM_STEPS = 3


def chain(engine: Engine, num_steps: int = NUM_STEPS) -> dict[str, Segment]:
    segments = {"a": think(engine, PROMPTS["a"], num_steps)}
    segments["b"] = think(engine, PROMPTS["b"], num_steps, place_chain(segments))
    return segments


@pytest.mark.parametrize("num_steps", [NUM_STEPS, 0])
def test_memory_is_what_its_recipe_computes(engine: Engine, num_steps: int) -> None:
    segments = chain(engine, num_steps)
    arrived = {name: from_bytes(to_bytes(segment), expected=engine.lm.spec) for name, segment in segments.items()}
    session = begin(engine, PROMPTS["c"], place_chain(arrived))
    for row in range(3):
        plain = Plain(engine.lm, session.rule)
        for segment in segments.values():
            plain.recompute(segment.recompute_inputs.take([row]))
        plain.feed(PROMPTS["c"][row])
        assert_close(logits_of(session)[row], plain.logits_V)


def test_the_wire_changes_no_bit(engine: Engine) -> None:
    segments = chain(engine)
    arrived = {name: from_bytes(to_bytes(segment)) for name, segment in segments.items()}
    here = logits_of(begin(engine, PROMPTS["c"], place_chain(segments))).clone()
    there = logits_of(begin(engine, PROMPTS["c"], place_chain(arrived)))
    assert torch.equal(here, there)


def test_another_engine_reads_the_same(engine: Engine, engine_of: MakeEngine) -> None:
    segments = chain(engine)
    here = logits_of(begin(engine, PROMPTS["c"], place_chain(segments))).clone()
    there = logits_of(begin(engine_of(engine.lm.name), PROMPTS["c"], place_chain(segments)))
    assert_close(here, there)


def test_memory_matters(engine: Engine) -> None:
    with_memory = logits_of(begin(engine, PROMPTS["c"], place_chain(chain(engine)))).clone()
    without_thoughts = logits_of(begin(engine, PROMPTS["c"], place_chain(chain(engine, 0)))).clone()
    alone = logits_of(begin(engine, PROMPTS["c"])).clone()
    for first, second in ((with_memory, alone), (without_thoughts, alone), (with_memory, without_thoughts)):
        assert ((first - second).abs().amax(dim=-1) > 0.05).all()


def test_no_latent_step_hands_over_the_prompt(engine: Engine) -> None:
    segment = think(engine, PROMPTS["a"], 0)
    assert segment.lengths == (9, 2, 21)
    assert segment.recompute_inputs.latents_NE.shape == (0, engine.lm.spec.hidden_size)
    session = begin(engine, PROMPTS["c"], place_chain({"a": segment}))
    for row in range(3):
        plain = Plain(engine.lm, session.rule).feed(PROMPTS["a"][row]).feed(PROMPTS["c"][row])
        assert_close(logits_of(session)[row], plain.logits_V)


def test_recipes_hold_tokens_then_thoughts(engine_of: MakeEngine) -> None:
    recompute_inputs = chain(engine_of("qwen3"))["b"].recompute_inputs
    for row, prompt in enumerate(PROMPTS["b"]):
        assert recompute_inputs.take([row]).token_ids_T.tolist() == [*prompt, *[LATENT] * NUM_STEPS]


def test_parts_of_a_turn_are_parts_of_its_memory(engine: Engine) -> None:
    whole = think(engine, PROMPTS["a"], NUM_STEPS)
    prompt = think(engine, PROMPTS["a"], NUM_STEPS, hands_over="prompt")
    latents = think(engine, PROMPTS["a"], NUM_STEPS, hands_over="latents")
    assert prompt.lengths == (9, 2, 21)
    assert latents.lengths == (NUM_STEPS,) * 3
    assert latents.meta.starts == (9, 2, 21)
    assert prompt.turn_ends == latents.turn_ends == whole.turn_ends
    for row, length in enumerate(prompt.lengths):
        assert torch.equal(prompt.kv_of(row), whole.kv_of(row)[:, :, :, :length])
        assert torch.equal(latents.kv_of(row), whole.kv_of(row)[:, :, :, length:])


@pytest.mark.parametrize("part", ["prompt", "latents"])
def test_a_reader_of_a_part_goes_on_where_the_whole_turn_ended(part: str, engine: Engine) -> None:
    """As if the rest of the turn had been there and was masked out: its place stays empty."""
    segment = think(engine, PROMPTS["a"], NUM_STEPS, hands_over=part)
    session = begin(engine, PROMPTS["c"], place_chain({"a": segment}))
    assert session.positions == [9 + 3 + 5, 2 + 3 + 3, 21 + 3 + 8]
    whole = think(engine, PROMPTS["a"], NUM_STEPS)
    begin(engine, PROMPTS["c"], place_chain({"a": segment}))
    for row, length in enumerate((9, 2, 21)):
        window = (0, length) if part == "prompt" else (length, length + NUM_STEPS)
        cut = window_of(take(whole, [row]), window)
        alone = begin(engine, [PROMPTS["c"][row]], place_chain({"a": cut}))
        again = begin(engine, PROMPTS["c"], place_chain({"a": segment}))
        assert_close(logits_of(again)[row], logits_of(alone)[0])


def test_memory_can_be_read_question_by_question(engine_of: MakeEngine) -> None:
    engine = engine_of("qwen3")
    segments = chain(engine)
    together = logits_of(begin(engine, PROMPTS["c"], place_chain(segments))).clone()
    order = [2, 0]
    some = {name: take(segment, order) for name, segment in segments.items()}
    part = logits_of(begin(engine, [PROMPTS["c"][row] for row in order], place_chain(some)))
    assert_close(part, together[order])


def test_reading_changes_no_memory(engine_of: MakeEngine) -> None:
    engine = engine_of("qwen3")
    segments = {"a": think(engine, PROMPTS["a"], 2), "b": think(engine, PROMPTS["b"], 2)}
    before = {name: segment.kv_LCHTD.clone() for name, segment in segments.items()}
    session = begin(engine, PROMPTS["c"], merge_layout([memory("a"), memory("b")], segments, 3))
    session.think(2)
    begin(engine, prompts_of([50] * 3))
    assert all(torch.equal(segment.kv_LCHTD, before[name]) for name, segment in segments.items())


def test_memory_of_another_model_is_refused(engine_of: MakeEngine) -> None:
    segment = think(engine_of("llama"), PROMPTS["a"], 1)
    with pytest.raises(IncompatibleMemoryError, match="architecture is 'LlamaForCausalLM', not 'MistralForCausalLM'"):
        begin(engine_of("mistral"), PROMPTS["c"], place_chain({"a": segment}))


def test_memory_whose_layers_keep_different_tokens_is_refused_by_the_name_of_the_layer(engine: Engine) -> None:
    segment = think(engine, PROMPTS["a"], 1)
    everything = tuple(((0, length),) for length in segment.lengths)
    kept = (everything, *((((0, 1),), *everything[1:]) for _ in range(engine.lm.spec.num_layers - 1)))
    meta = replace(segment.meta, kept=kept)
    buffer = torch.zeros(meta.layout().num_bytes, dtype=torch.uint8)
    evicted = Segment(meta, InMemoryKV(meta.layout(), buffer), segment.recompute_inputs)
    with pytest.raises(IncompatibleMemoryError, match=r"^layer 1 keeps \(1, "):
        begin(engine, PROMPTS["c"], place_chain({"a": evicted}))


def test_a_cache_has_what_each_layer_caches(engine: Engine) -> None:
    """And takes as many bytes as its layers say."""
    spec = engine.lm.spec
    latent = LayerSpec((TensorSpec("latent", 1, 48, spec.dtype),))
    mixed = replace(spec, layers=(spec.layers[0], latent))
    cache = BatchCache(mixed, engine.lm.layer_devices, 1, 8)
    cache.open(1)
    assert cache.num_bytes == 8 * (spec.layers[0].bytes_per_token + 48 * 4)
    written = [torch.randn(one.num_heads, 5, one.head_dim) for layer in mixed.layers for one in layer.tensors]
    cache.write(0, 2, written, 0)
    cache.extend([7])
    for got, expected in zip(cache.copy_out([2], [5]).tensors_of(0), written, strict=True):
        assert torch.equal(got, expected)


def test_too_long_a_memory_is_told_with_its_numbers(tmp_path: Path) -> None:
    engine = Engine(with_limit(make_lm("qwen3"), 40), thoughts="identity", cache_dir=tmp_path)
    segment = think(engine, prompts_of([30]), 4)
    with pytest.raises(ContextLengthError, match="need 41 positions, model qwen3-40 has 40"):
        begin(engine, prompts_of([7]), place_chain({"a": segment}))
    session = begin(engine, prompts_of([5]), place_chain({"a": segment}))
    with pytest.raises(ContextLengthError, match="need 41 positions"):
        session.think(2)


def test_an_answer_ends_at_the_last_position_and_its_neighbours_go_on(tmp_path: Path) -> None:
    engine = Engine(with_limit(make_lm("qwen3"), 40), thoughts="identity", cache_dir=tmp_path)
    engine.lm.chat.stop_ids = frozenset()
    sampling = Sampling(max_new_tokens=20)
    together = begin(engine, prompts_of([38, 5])).decode(sampling, "judger")
    assert [len(output) for output in together] == [3, 20]  # the third is sampled at position 40 and never fed
    assert together[1] == begin(engine, prompts_of([38, 5])[1:]).decode(sampling, "judger")[0]
