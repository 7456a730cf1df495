"""Keys that were computed at one position and moved to another are the keys computed there."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from latentmas_ray.engine.engine import Engine
from latentmas_ray.memory import MergedLayout, Segment, merge_layout, rotate_keys
from latentmas_ray.models.thoughts.realign import Realignment
from tests.numerics.conftest import MakeEngine
from tests.numerics.families import FAMILIES, SCALED
from tests.numerics.turns import assert_close, begin, logits_of, memory, prompts_of, think

SHIFTS = (1, 37, 150)
LENGTHS = [12, 5]


@pytest.fixture(params=[*FAMILIES, *SCALED])
def engine(request: pytest.FixtureRequest, engine_of: MakeEngine) -> Engine:
    return engine_of(request.param)


def computed_at(engine: Engine, position: int) -> Segment:
    """A turn that begins at `position`, with nothing before it."""
    session = engine.open(["q0", "q1"], num_slots=64)
    session.absorb(MergedLayout((), (position, position)))
    session.prefill(prompts_of(LENGTHS))
    session.think(3)
    return session.emit()


@pytest.mark.parametrize("shift", SHIFTS)
def test_a_moved_segment_is_the_segment_computed_there(engine: Engine, shift: int) -> None:
    here, there = computed_at(engine, 0), computed_at(engine, shift)
    assert there.meta.starts == (shift, shift)
    moved = here.kv_LCHTD.clone()
    moved[:, 0] = rotate_keys(moved[:, 0], shift, engine.lm.spec.rope)
    assert_close(moved, there.kv_LCHTD)
    assert (here.kv_LCHTD[:, 0] - there.kv_LCHTD[:, 0]).abs().max() > 0.05


def test_yarn_s_factor_is_in_the_keys_once(engine_of: MakeEngine) -> None:
    engine = engine_of("yarn")
    factor = engine.lm.model.model.rotary_emb.attention_scaling
    assert factor > 1.1
    here, there = computed_at(engine, 0), computed_at(engine, 90)
    assert_close(here.kv_LCHTD[:, 0].norm(dim=-1), there.kv_LCHTD[:, 0].norm(dim=-1))


def test_a_bf16_segment_moves_as_far_as_rounding_allows(engine_of: MakeEngine) -> None:
    for family in ("qwen3", "neox"):
        engine = engine_of(family, torch.bfloat16)
        here, there = computed_at(engine, 0), computed_at(engine, 150)
        keys = rotate_keys(here.kv_LCHTD[:, 0], 150, engine.lm.spec.rope).float()
        scale = there.kv_LCHTD[:, 0].float().abs().max()
        assert (keys - there.kv_LCHTD[:, 0].float()).abs().max() < 0.05 * scale


def written_out(engine: Engine, segments: list[Segment], row: int, prompt: list[int]) -> Tensor:
    """The logits of a reader whose branches were each computed, alone, at the position where the merge puts them."""
    placed, position = {}, 0
    for index, segment in enumerate(segments):
        session = engine.open(["q"], num_slots=64)
        session.absorb(MergedLayout((), (position,)))
        recompute_inputs = segment.recompute_inputs.take([row])
        session.prefill([recompute_inputs.token_ids_T[recompute_inputs.token_ids_T >= 0].tolist()])
        session.think(int((recompute_inputs.token_ids_T < 0).sum()))
        placed[f"agent{index}"] = session.emit()
        position += recompute_inputs.lengths[0]
    # They stand where they were computed, so a chain, which moves nothing, lines them up.
    chain = merge_layout([memory(*placed)], placed, 1)
    return logits_of(begin(engine, [prompt], chain))[0].clone()


def test_a_reader_of_three_branches_sees_one_consistent_sequence(engine: Engine) -> None:
    names = ("a", "b", "c")
    segments = {
        name: think(engine, prompts_of([6 + index, 15 - 5 * index], index), 3) for index, name in enumerate(names)
    }
    prompts = prompts_of([7, 4], 9)
    placement = merge_layout([memory(name) for name in names], segments, 2)
    session = begin(engine, prompts, placement)
    merged = logits_of(session).clone()
    assert session.positions == [6 + 7 + 8 + 9 + 7, 15 + 10 + 5 + 9 + 4]
    for row in range(2):
        assert_close(merged[row], written_out(engine, list(segments.values()), row, prompts[row]))


def test_unmoved_branches_would_give_other_logits(engine: Engine) -> None:
    segments = {name: think(engine, prompts_of([20], index), 3) for index, name in enumerate("ab")}
    placement = merge_layout([memory("a"), memory("b")], segments, 1)
    unmoved = replace(placement, segments=tuple(replace(one, shifts=(0,)) for one in placement.segments))
    prompt = prompts_of([5], 9)
    moved_logits = logits_of(begin(engine, prompt, placement)).clone()
    assert (logits_of(begin(engine, prompt, unmoved)) - moved_logits).abs().max() > 1e-3


def test_a_diamond_keeps_its_prefix_and_lines_up_its_branches(engine_of: MakeEngine) -> None:
    """a → b, a → c, then a reader of both: c was computed behind a, and is moved behind b."""
    engine = engine_of("qwen3")
    first = {"a": think(engine, prompts_of([8], 0), 2)}
    behind = merge_layout([memory("a")], first, 1)
    segments = {
        **first,
        "b": think(engine, prompts_of([5], 1), 2, behind),
        "c": think(engine, prompts_of([6], 2), 2, behind),
    }
    placement = merge_layout([memory("a", "b"), memory("a", "c")], segments, 1)
    session = begin(engine, prompts_of([3], 3), placement)
    assert session.positions == [8 + 2 + 5 + 2 + 6 + 2 + 3]
    moved = segments["c"].kv_LCHTD.clone()
    moved[:, 0] = rotate_keys(moved[:, 0], 7, engine.lm.spec.rope)
    assert_close(session.cache.copy_out([17], [8]).tensor(), moved)


def test_no_branch_sees_another(engine_of: MakeEngine) -> None:
    engine = engine_of("qwen3")
    alone = think(engine, prompts_of([9], 1), 3)
    begin(engine, prompts_of([40], 0))
    assert torch.equal(think(engine, prompts_of([9], 1), 3).kv_LCHTD, alone.kv_LCHTD)


def test_the_realignment_is_not_part_of_a_position(engine_of: MakeEngine) -> None:
    """Thoughts have the mean norm of input embeddings wherever they are thought."""
    engine = engine_of("llama")
    latents = computed_at(engine, 90).recompute_inputs.latents_NE
    realign = engine.open(["q"], num_slots=8).rule
    assert isinstance(realign, Realignment)
    torch.testing.assert_close(latents.norm(dim=-1), torch.full((6,), realign.target_norm))
