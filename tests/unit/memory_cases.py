"""Small specs and segments that the tests of working memory are made of."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from hypothesis import strategies as st

from latentmas_ray.memory import LATENT, KVCacheSpec, Recipe, RopeSpec, Segment

ROPE = RopeSpec("default", (1.0, 0.1))
SPEC = KVCacheSpec(
    architecture="TestForCausalLM",
    num_layers=2,
    num_kv_heads=2,
    head_dim=4,
    hidden_size=6,
    dtype="float32",
    rope=ROPE,
    weights_revision="r0",
)


def spec_of(dtype: str) -> KVCacheSpec:
    return replace(SPEC, dtype=dtype)


def make_segment(
    turns: Sequence[tuple[int, int]],
    *,
    turn_starts: Sequence[int] | None = None,
    windows: Sequence[tuple[int, int]] | None = None,
    spec: KVCacheSpec = SPEC,
    seed: int = 0,
) -> Segment:
    """A segment of random numbers. `turns` gives (prompt tokens, latent thoughts) of each question; the whole turn is
    kept unless `windows` (first, stop) say otherwise."""
    generator = torch.Generator().manual_seed(seed)
    totals = [prompt + thoughts for prompt, thoughts in turns]
    kept = list(windows or [(0, total) for total in totals])
    lengths = tuple(stop - first for first, stop in kept)
    shape = (spec.num_layers, 2, spec.num_kv_heads, sum(lengths), spec.head_dim)
    ids = [
        entry
        for prompt, thoughts in turns
        for entry in [*torch.randint(0, 99, (prompt,), generator=generator).tolist(), *[LATENT] * thoughts]
    ]
    latents = torch.randn(sum(thoughts for _, thoughts in turns), spec.hidden_size, generator=generator)
    return Segment(
        spec,
        torch.randn(shape, generator=generator).to(spec.torch_dtype),
        lengths,
        tuple(turn_starts or [0] * len(turns)),
        tuple(first for first, _ in kept),
        Recipe(torch.tensor(ids, dtype=torch.int64), latents.to(spec.torch_dtype), tuple(totals)),
    )


@st.composite
def segments(draw: st.DrawFn, *, max_questions: int = 4) -> Segment:
    """Any segment: ragged, with questions of no token, in every dtype, handed over whole or in part."""
    turns = draw(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4)), min_size=1, max_size=max_questions))
    windows = [sorted(draw(st.tuples(st.integers(0, sum(turn)), st.integers(0, sum(turn))))) for turn in turns]
    starts = [draw(st.integers(0, 10_000)) for _ in turns]
    dtype = draw(st.sampled_from(["float32", "bfloat16", "float16"]))
    return make_segment(
        turns,
        turn_starts=starts,
        windows=[(first, stop) for first, stop in windows],
        spec=spec_of(dtype),
        seed=draw(st.integers(0, 2**31)),
    )


def assert_equal(first: Segment, second: Segment) -> None:
    """Bit for bit the same segment."""
    assert first.spec == second.spec
    assert (first.lengths, first.turn_starts, first.offsets) == (second.lengths, second.turn_starts, second.offsets)
    assert first.recipe.lengths == second.recipe.lengths
    for mine, other in (
        (first.kv_LCHTD, second.kv_LCHTD),
        (first.recipe.token_ids_T, second.recipe.token_ids_T),
        (first.recipe.latents_NE, second.recipe.latents_NE),
    ):
        assert mine.dtype == other.dtype
        assert torch.equal(mine, other)
