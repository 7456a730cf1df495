"""Layers with a sliding window see positions and not slots: at every length around the window, over merged branches,
over holes, and in whatever order rows come and go."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, MistralConfig

from latentmas_ray.engine.diagnostics.ablation import clone_without
from latentmas_ray.engine.engine import Engine
from latentmas_ray.memory import MergedLayout, Segment, merge_layout, rotate_keys
from latentmas_ray.models import wrap
from latentmas_ray.models.attention.packing import AttentionCall, SlotPositions
from latentmas_ray.models.presets import tiny_tokenizer
from tests.numerics.families import GQA
from tests.numerics.plain import Plain
from tests.numerics.position_families import ALL, WINDOW, build, make
from tests.numerics.turns import assert_close, begin, logits_of, memory, prompts_of, think

AROUND = [1, WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW, 3 * WINDOW + 1]
TIGHT = 2e-5


@pytest.fixture(scope="module", params=["mistral-window", "gemma3-window", "cohere2", "gpt_oss", "gemma2"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder: Path = tmp_path_factory.mktemp("realign")
    return Engine(make(request.param), cache_dir=folder)


def plain_of(engine: Engine) -> Plain:
    """Transformers alone, with the family's own attention."""
    lm = replace(engine.lm, model=build(ALL[engine.lm.name]()))
    return Plain(lm, engine.rule)


def test_prompts_around_the_window(engine: Engine) -> None:
    prompts = prompts_of(AROUND)
    logits = logits_of(begin(engine, prompts))
    plain = plain_of(engine)
    for row, prompt in enumerate(prompts):
        plain.cache = DynamicCache()
        assert_close(logits[row], plain.feed(prompt).logits_V, TIGHT)


def test_steps_across_the_window_s_edge(engine: Engine) -> None:
    prompts = prompts_of(AROUND)
    session = begin(engine, prompts)
    plain = plain_of(engine)
    alone = [Plain(plain.lm, plain.rule).feed(prompt) for prompt in prompts]
    for _ in range(WINDOW + 2):
        session.think(1)
        for row, one in enumerate(alone):
            assert_close(session.last_hidden_BE[row], one.think(1).hidden_E, TIGHT)


def moved_cache(engine: Engine, placement: MergedLayout, row: int) -> DynamicCache:
    """A merged memory of one question as transformers' cache, whose slots are the positions."""
    parts = []
    for placed in placement.segments:
        assert isinstance(placed.segment, Segment)
        kv_LCHTD = placed.segment.kv_of(row).clone()
        for layer, rope in enumerate(engine.lm.spec.ropes):
            kv_LCHTD[layer, 0] = rotate_keys(kv_LCHTD[layer, 0], placed.shifts[row], rope)
        parts.append(kv_LCHTD)
    cache = DynamicCache()
    for layer, kv_CHTD in enumerate(torch.cat(parts, dim=3)):
        cache.update(kv_CHTD[0][None], kv_CHTD[1][None], layer)
    return cache


@pytest.mark.parametrize("first", [3, WINDOW - 2, WINDOW, 2 * WINDOW + 3])
@pytest.mark.parametrize("second", [1, WINDOW, WINDOW + 5])
def test_branches_that_are_merged_across_the_edge(engine: Engine, first: int, second: int) -> None:
    segments = {"a": think(engine, prompts_of([first, 4]), 2), "b": think(engine, prompts_of([second, 9], 1), 2)}
    placement = merge_layout([memory("a"), memory("b")], segments, 2)
    prompts = prompts_of([5, 2], 2)
    session = begin(engine, prompts, placement)
    plain = plain_of(engine)
    for row, prompt in enumerate(prompts):
        plain.cache = moved_cache(engine, placement, row)
        assert_close(logits_of(session)[row], plain.feed(prompt).logits_V, TIGHT)


def test_holes_count_as_positions(engine: Engine) -> None:
    """Positions that hold nothing still push what is before them out of the window."""
    segments = {"a": think(engine, prompts_of([4]), 2)}
    segments["b"] = think(
        engine, prompts_of([WINDOW], 1), 2, merge_layout([memory("a")], segments, 1), hands_over="latents"
    )
    placement = merge_layout([memory("a", "b")], segments, 1)
    prompt = prompts_of([2], 2)
    session = begin(engine, prompt, placement)
    without_a = clone_without(session, placement, [0], num_new=8, without="a")
    without_a.prefill(prompt)
    positions = session.cache.positions_of(0, 0, session.cache.lengths[0])
    assert positions is not None
    expected = [*range(6), *range(6 + WINDOW, 6 + WINDOW + 2), *range(6 + WINDOW + 2, 6 + WINDOW + 4)]
    assert positions[0].tolist() == expected
    left = without_a.cache.positions_of(0, 0, 4)
    assert left is not None
    assert left[0].tolist() == expected[6:]


def visible(call: AttentionCall, window: int, positions: SlotPositions, num_slots: int) -> Tensor:
    """What each new token of a call sees, [R·T, slots]."""
    view = call.view(1, torch.zeros(1), window, positions.of(0))
    num_queries = call.num_rows * call.count
    seen = torch.zeros(num_queries, num_slots, dtype=torch.bool)
    mask = torch.zeros(num_queries, call.num_visible - view.first) if view.mask is None else view.mask
    seen[:, view.first : call.num_visible] = (mask.reshape(-1, call.num_visible - view.first) == 0).expand(
        num_queries, -1
    )
    return seen


@pytest.mark.parametrize("window", [1, 3, 8, 100])
@pytest.mark.parametrize(("starts", "count"), [([0], 6), ([4], 3), ([9], 1), ([4, 9, 2], 1), ([5, 5], 1)])
def test_a_mask_is_the_rule_written_out(window: int, starts: list[int], count: int) -> None:
    generator = torch.Generator().manual_seed(3)
    num_slots = max(starts) + count
    positions = SlotPositions(len(starts), num_slots)
    gaps = torch.randint(1, 4, (len(starts), num_slots), generator=generator)
    for row in range(len(starts)):
        positions.put(row, 0, [gaps[row].cumsum(0)])
    seen = visible(AttentionCall(0, 0, starts, count), window, positions, num_slots)
    for row, start in enumerate(starts):
        for token in range(count):
            own = positions.of(0)[row, start + token]
            for slot in range(num_slots):
                far = int(own - positions.of(0)[row, slot])
                expected = slot <= start + token and far < window
                assert bool(seen[row * count + token, slot]) == expected, (row, token, slot)


def test_layers_may_keep_other_tokens() -> None:
    positions = SlotPositions(2, 4)
    positions.put(0, 0, [torch.tensor([0, 1])])
    positions.put(1, 0, [torch.tensor([0, 5]), torch.tensor([0, 7]), torch.tensor([0, 5])])
    positions.put(1, 2, [torch.tensor([9])])
    assert [positions.of(layer)[1, :3].tolist() for layer in range(3)] == [[0, 5, 9], [0, 7, 9], [0, 5, 9]]
    assert positions.of(1)[0, :2].tolist() == [0, 1]
    positions.copy_row(1, 0, 3)
    positions.resize(3, 6, 2)
    assert positions.of(1)[0, :3].tolist() == [0, 7, 9]


def test_a_window_of_all_positions_is_none(tmp_path: Path) -> None:
    """`spec` says so, and then nothing has to know where tokens are."""
    for size, expected in ((4096, None), (4095, 4095)):
        lm = wrap(build(MistralConfig(**GQA, sliding_window=size)), tiny_tokenizer(), "mistral")
        assert lm.spec.windows == (expected, expected)
