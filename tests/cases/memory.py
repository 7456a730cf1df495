"""Small specs and segments that the tests of working memory are made of."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from hypothesis import strategies as st

from latentmas_ray.memory import (
    LATENT,
    KVCacheSpec,
    Memory,
    MemorySegment,
    RecomputeInputs,
    RopeSpec,
    Segment,
    SegmentChunk,
    merge_layout,
)
from latentmas_ray.memory.kv_source import concatenate_kv
from latentmas_ray.topology.agent import AgentMemory

ROPE = RopeSpec("default", (1.0, 0.1))
SPEC = KVCacheSpec.uniform(
    architecture="TestForCausalLM",
    num_layers=2,
    num_kv_heads=2,
    head_dim=4,
    hidden_size=6,
    dtype="float32",
    rope=ROPE,
    weights_revision="r0",
)


def reshaped(spec: KVCacheSpec, **changes: Any) -> KVCacheSpec:
    """A spec of a uniform model that differs in some of what `KVCacheSpec.uniform` is given."""
    names = ("architecture", "num_layers", "num_kv_heads", "head_dim", "hidden_size", "dtype", "rope")
    return KVCacheSpec.uniform(
        **{**{name: getattr(spec, name) for name in (*names, "weights_revision", "shard")}, **changes}
    )


def spec_of(dtype: str) -> KVCacheSpec:
    return reshaped(SPEC, dtype=dtype)


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
    return Segment.from_tensor(
        spec,
        torch.randn(shape, generator=generator).to(spec.torch_dtype),
        lengths,
        tuple(turn_starts or [0] * len(turns)),
        tuple(first for first, _ in kept),
        RecomputeInputs(torch.tensor(ids, dtype=torch.int64), latents.to(spec.torch_dtype), tuple(totals)),
    )


def take(segment: Segment, questions: Sequence[int]) -> Segment:
    """A segment of some questions, in the order given."""
    meta = segment.meta.take(questions)
    kv = concatenate_kv(meta.layout(), [(segment.kv, question) for question in questions])
    return Segment(meta, kv, segment.recompute_inputs.take(questions))


def window_of(segment: Segment, window: tuple[int, int]) -> Segment:
    """Tokens [first, stop) of the only question; positions stay what they were."""
    first, stop = window
    kv_LCHTD = segment.kv_LCHTD[:, :, :, first:stop].contiguous()
    offsets = (segment.meta.offsets[0] + first,)
    return Segment.from_tensor(
        segment.spec, kv_LCHTD, (stop - first,), segment.turn_starts, offsets, segment.recompute_inputs
    )


def cut(segment: Segment, inputs: Sequence[int]) -> tuple[SegmentChunk, SegmentChunk]:
    """A segment as two chunks: what the first `inputs[q]` inputs of each question's turn wrote, and the rest."""
    outline = segment.meta
    kept = [
        min(max(first - offset, 0), length)
        for first, offset, length in zip(inputs, outline.offsets, outline.lengths, strict=True)
    ]
    none = [0] * outline.num_questions
    return (
        _part(segment, (none, kept), (none, inputs)),
        _part(segment, (kept, outline.lengths), (inputs, outline.turn_lengths)),
    )


Edges = tuple[Sequence[int], Sequence[int]]  # of each question: from, to


def _part(segment: Segment, tokens: Edges, inputs: Edges) -> SegmentChunk:
    recompute_inputs, questions = segment.recompute_inputs, range(segment.num_questions)
    ids = [
        all_ids[inputs[0][q] : inputs[1][q]]
        for q, all_ids in enumerate(recompute_inputs.token_ids_T.split(recompute_inputs.lengths))
    ]
    latents = recompute_inputs.latents_NE.split(list(recompute_inputs.latents_per_question()))
    before = [
        int((all_ids[: inputs[0][q]] == LATENT).sum())
        for q, all_ids in enumerate(recompute_inputs.token_ids_T.split(recompute_inputs.lengths))
    ]
    taken = [latents[q][before[q] : before[q] + int((ids[q] == LATENT).sum())] for q in questions]
    return SegmentChunk.from_tensor(
        segment.meta,
        tuple(tokens[0]),
        tuple(stop - first for first, stop in zip(*tokens, strict=True)),
        torch.cat([segment.kv_of(q)[:, :, :, tokens[0][q] : tokens[1][q]] for q in questions], dim=3),
        RecomputeInputs(torch.cat(ids), torch.cat(taken), tuple(map(len, ids))),
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
    assert first.meta == second.meta
    assert first.recompute_inputs.lengths == second.recompute_inputs.lengths
    for mine, other in (
        (first.kv_LCHTD, second.kv_LCHTD),
        (first.recompute_inputs.token_ids_T, second.recompute_inputs.token_ids_T),
        (first.recompute_inputs.latents_NE, second.recompute_inputs.latents_NE),
    ):
        assert mine.dtype == other.dtype
        assert torch.equal(mine, other)


def make_memory(
    turns: Mapping[str, tuple[int, int]],
    *,
    reads: Mapping[str, Sequence[str]] | None = None,
    texts: Mapping[str, str] | None = None,
    spec: KVCacheSpec = SPEC,
    seed: int = 0,
    has_kv: bool = True,
    question: str = "What is 6 times 7?",
) -> Memory:
    """A memory of random numbers: (prompt tokens, latent thoughts) of each agent. Without `reads`, each agent reads the
    one before it; with them, whatever is read by no agent is a branch of its own. Readers stand behind what they read.
    """
    if reads is None:
        reads = {after: [before] for before, after in pairwise(turns)}
    tree: dict[str, AgentMemory] = {}
    segments: dict[str, MemorySegment] = {}
    for number, (agent, turn) in enumerate(turns.items()):
        tree[agent] = AgentMemory(agent, tuple(tree[name] for name in reads.get(agent, ())))
        begin = merge_layout(tree[agent].reads, {name: one.meta for name, one in segments.items()}, 1).next_positions[0]
        segment = make_segment([turn], turn_starts=[begin], spec=spec, seed=seed + number)
        segments[agent] = MemorySegment.from_chunks([SegmentChunk.whole(segment)])
    read = {name for names in reads.values() for name in names}
    memory = Memory(
        model="test-model",
        question=question,
        reads=tuple(node for name, node in tree.items() if name not in read),
        segments=segments,
        texts=texts or {},
    )
    return memory if has_kv else memory.without_kv()


@st.composite
def memories(draw: st.DrawFn) -> Memory:
    """Any memory: of up to four agents, who read any of those before them, with empty turns, in every dtype."""
    names = [f"agent-{number}" for number in range(draw(st.integers(1, 4)))]
    reads = {
        name: draw(st.lists(st.sampled_from(names[:number]), unique=True)) if number else []
        for number, name in enumerate(names)
    }
    return make_memory(
        {name: (draw(st.integers(0, 5)), draw(st.integers(0, 3))) for name in names},
        reads=reads,
        texts=draw(st.dictionaries(st.sampled_from(["critic", "agent-0", "Ωmega", "評論家"]), st.text(), max_size=3)),
        spec=spec_of(draw(st.sampled_from(["float32", "bfloat16", "float16"]))),
        seed=draw(st.integers(0, 2**31)),
        has_kv=draw(st.booleans()),
        question=draw(st.text()),
    )
