"""Models whose layers are not alike, and segments of which layers keep different tokens."""

from dataclasses import replace

import torch
from hypothesis import strategies as st

from latentmas_ray.memory import InMemoryKV, KVCacheSpec, LayerSpec, Segment, SegmentMeta, TensorSpec
from tests.cases.memory import ROPE, SPEC, make_segment

DTYPES = st.sampled_from(["float32", "bfloat16", "float16"])


@st.composite
def layers(draw: st.DrawFn) -> LayerSpec:
    """A key and a value, one tensor of latent attention, or what a model may come up with; perhaps nothing."""
    kind = draw(st.sampled_from(["attention", "latent", "other"]))
    heads, dim, dtype = draw(st.integers(1, 3)), draw(st.integers(4, 6)), draw(DTYPES)
    if kind == "attention":
        return LayerSpec.attention(heads, dim, dtype, ROPE)
    if kind == "latent":
        return LayerSpec((TensorSpec("latent", 1, dim * 3, dtype),))
    names = draw(st.lists(st.sampled_from(["key", "value", "state"]), unique=True))
    return LayerSpec(tuple(TensorSpec(name, heads, dim - 1, draw(DTYPES)) for name in names))


@st.composite
def mixed_specs(draw: st.DrawFn) -> KVCacheSpec:
    """The spec of any model, also of one whose layers are all alike."""
    return replace(SPEC, layers=tuple(draw(st.lists(layers(), min_size=1, max_size=4))))


@st.composite
def mixed_segments(draw: st.DrawFn, *, max_questions: int = 3) -> Segment:
    """A segment of any model of which each layer keeps some tokens, perhaps all."""
    spec = draw(mixed_specs())
    turns = draw(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 2)), min_size=1, max_size=max_questions))
    plain = make_segment(turns)
    meta = replace(plain.meta, spec=spec)
    if draw(st.booleans()):
        kept = [tuple(draw(_ranges(length)) for length in meta.lengths) for _ in spec.layers]
        meta = replace(meta, kept=tuple(kept))
    return Segment(meta, random_kv(meta, draw(st.integers(0, 2**31))), plain.recompute_inputs)


def random_kv(meta: SegmentMeta, seed: int) -> InMemoryKV:
    """Bytes of any content, but where nothing lies zeros."""
    layout = meta.layout()
    buffer = torch.zeros(layout.num_bytes, dtype=torch.uint8)
    generator = torch.Generator().manual_seed(seed)
    for tensor in layout.tensors:
        part = buffer[tensor.first_byte : tensor.stop_byte]
        part.copy_(torch.randint(0, 256, part.shape, generator=generator, dtype=torch.uint8))
    return InMemoryKV(layout, buffer)


@st.composite
def _ranges(draw: st.DrawFn, length: int) -> tuple[tuple[int, int], ...]:
    keeps = draw(st.lists(st.booleans(), min_size=length, max_size=length))
    edges = [index for index in range(length + 1) if (index and keeps[index - 1]) != (index < length and keeps[index])]
    return tuple(zip(edges[::2], edges[1::2], strict=True))
