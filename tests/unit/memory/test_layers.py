"""Memory whose layers are not alike, keep different tokens, or have states: it is packed, sent, kept and checked like
any other."""

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from latentmas_ray.config import CodecName
from latentmas_ray.errors import IncompatibleMemoryError, SegmentError, WireError
from latentmas_ray.memory import (
    InMemoryKV,
    KVCacheSpec,
    LayerSpec,
    Memory,
    MemorySegment,
    Segment,
    SegmentChunk,
    TensorSpec,
    join,
    merge_layout,
    repeat,
)
from latentmas_ray.memory.codec import coded_layout_bytes
from latentmas_ray.memory.kv_source import concatenate_kv
from latentmas_ray.memory.wire import decode_chunk, encode_chunk
from latentmas_ray.topology.agent import AgentMemory
from tests.cases.layers import mixed_segments, random_kv
from tests.cases.memory import ROPE, SPEC, make_segment, reshaped, take

PLAIN = make_segment([(4, 2), (3, 0)])
SLIDING = replace(PLAIN.meta, kept=((((0, 6),), ((0, 3),)), (((0, 1), (4, 6)), ((2, 3),))))
LATENT = replace(SPEC, layers=(LayerSpec((TensorSpec("latent", 1, 24, "float32"),)),) * 2)


def assert_same(one: Segment, other: Segment) -> None:
    assert one.meta == other.meta
    assert torch.equal(one.kv.buffer(), other.kv.buffer())
    assert torch.equal(one.recompute_inputs.token_ids_T, other.recompute_inputs.token_ids_T)
    assert torch.equal(one.recompute_inputs.latents_NE, other.recompute_inputs.latents_NE)


def halves(segment: Segment, counts: list[int]) -> list[SegmentChunk]:
    """The first `counts[q]` tokens of each question, and the rest, each with its own tokens of every layer."""
    nothing = (0,) * len(counts)
    rest = tuple(length - count for length, count in zip(segment.lengths, counts, strict=True))
    chunks = []
    for begins, lengths, recompute_inputs in (
        (nothing, tuple(counts), segment.recompute_inputs.head(nothing)),
        (tuple(counts), rest, segment.recompute_inputs),
    ):
        layout = segment.meta.layout(begins, lengths)
        part = torch.zeros(layout.num_bytes, dtype=torch.uint8)
        whole = segment.kv.layout
        for mine, theirs in zip(layout.tensors, whole.tensors, strict=True):
            views, ends = [], segment.meta.layout(nothing, begins).lengths_in(mine.layer)
            stored = 0
            for question, own in enumerate(whole.lengths_in(theirs.layer)):
                first = stored + ends[question]
                views.append(
                    theirs.view(segment.kv.buffer())[:, first : first + layout.lengths_in(mine.layer)[question]]
                )
                stored += own
            mine.view(part).copy_(torch.cat(views, dim=1))
        chunks.append(SegmentChunk(segment.meta, begins, lengths, InMemoryKV(layout, part), recompute_inputs))
    return chunks


@given(mixed_segments())
def test_there_and_back_on_the_wire(segment: Segment) -> None:
    chunk = SegmentChunk.whole(segment)
    header, body = encode_chunk(chunk)
    assert body.numel() == segment.kv.layout.num_bytes
    assert_same(join([decode_chunk(header, body.clone(), expected=segment.spec)]), segment)
    if body.numel():
        with pytest.raises(WireError, match="truncated"):
            decode_chunk(header, body[:-1])
        damaged = body.clone()
        damaged[0] ^= 1
        with pytest.raises(WireError, match="damaged"):
            decode_chunk(header, damaged)


@given(mixed_segments())
def test_there_and_back_by_pickling(segment: Segment) -> None:
    assert_same(pickle.loads(pickle.dumps(segment)), segment)


@given(mixed_segments(), st.data())
def test_what_was_cut_is_joined_again(segment: Segment, data: st.DataObject) -> None:
    chunks = halves(segment, [data.draw(st.integers(0, length)) for length in segment.lengths])
    there = [decode_chunk(*encode_chunk(chunk), expected=segment.spec) for chunk in chunks]
    assert_same(join(there), segment)


@given(mixed_segments(), st.data())
def test_questions_are_taken_and_put_together_again(segment: Segment, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(segment.num_questions)))
    taken = take(segment, order)
    for at, question in enumerate(order):
        for mine, theirs in zip(taken.kv.tensors_of(at), segment.kv.tensors_of(question), strict=True):
            assert torch.equal(mine.contiguous().view(torch.uint8), theirs.contiguous().view(torch.uint8))
    assert_same(take(taken, [order.index(question) for question in range(segment.num_questions)]), segment)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mixed_segments(max_questions=1))
def test_there_and_back_in_a_file(tmp_path: Path, segment: Segment) -> None:
    own = MemorySegment.from_chunks([SegmentChunk.whole(segment)])
    memory = Memory(model="m", question="?", reads=(AgentMemory("a"),), segments={"a": own})
    memory.save(tmp_path / "memory.safetensors")
    again = Memory.load(tmp_path / "memory.safetensors")
    assert again == memory
    assert_same(join([again.to_chunks()["a"]]), segment)
    assert_same(join([repeat(own.to_chunk(), 2)]), take(segment, [0, 0]))


@given(mixed_segments())
def test_bytes_are_counted_by_layer(segment: Segment) -> None:
    tensors = segment.kv.layout.tensors
    assert segment.meta.num_bytes == sum(one.num_tokens * one.spec.bytes_per_token for one in tensors)
    assert segment.kv.layout.num_bytes - segment.meta.num_bytes < 4 * (len(tensors) + 1)  # what aligns them
    assert all(one.first_byte % one.spec.torch_dtype.itemsize == 0 for one in tensors)


def test_layers_that_are_alike_lie_as_one_tensor() -> None:
    layout = PLAIN.kv.layout
    assert layout.is_uniform
    for tensor, expected in zip(layout.tensors, PLAIN.kv_LCHTD.flatten(0, 1), strict=True):
        assert torch.equal(tensor.view(PLAIN.kv.buffer()), expected)
    everything = replace(PLAIN.meta, kept=((((0, 6),), ((0, 3),)),) * 2)
    assert everything.layout() == layout


def test_a_token_keeps_its_position_in_every_layer() -> None:
    assert SLIDING.layout().layer_lengths == ((6, 3), (3, 1))
    assert SLIDING.layout((3, 1), (2, 2)).layer_lengths == ((2, 2), (1, 1))
    assert SLIDING.turn_ends == PLAIN.turn_ends
    placed = merge_layout([AgentMemory("a")], {"a": SLIDING}, 2)
    assert (placed.lengths, placed.next_positions) == (PLAIN.lengths, PLAIN.turn_ends)


@pytest.mark.parametrize(
    "kept",
    [
        ((((0, 6),), ((0, 3),)),),
        ((((0, 6),),), (((0, 6),),)),
        ((((0, 7),), ((0, 3),)), (((0, 6),), ((0, 3),))),
        ((((0, 6),), ((0, 3),)), (((0, 6),), ((2, 2),))),
        ((((0, 6),), ((0, 3),)), (((3, 6), (0, 2)), ((0, 3),))),
        ((((0, 6),), ((0, 3),)), (((0, 3), (3, 6)), ((0, 3),))),
        ((((-1, 6),), ((0, 3),)), (((0, 6),), ((0, 3),))),
    ],
    ids=str,
)
def test_kept_tokens_that_make_no_sense_are_refused(kept: Any) -> None:
    with pytest.raises(SegmentError, match="layer"):
        replace(PLAIN.meta, kept=kept)


def test_bytes_that_lie_otherwise_are_refused() -> None:
    with pytest.raises(SegmentError, match="layouts differ"):
        Segment(SLIDING, PLAIN.kv, PLAIN.recompute_inputs)
    with pytest.raises(SegmentError, match="take"):
        InMemoryKV(SLIDING.layout(), PLAIN.kv.buffer())


def test_what_cannot_be_computed_with_names_its_layer() -> None:
    segment = Segment(SLIDING, random_kv(SLIDING, 0), PLAIN.recompute_inputs)
    with pytest.raises(IncompatibleMemoryError, match=r"^layer 1 keeps \(3, 1\) of \(6, 3\) tokens"):
        _ = segment.kv_LCHTD
    with pytest.raises(IncompatibleMemoryError, match=r"^layer 1 keeps"):
        encode_chunk(SegmentChunk.whole(segment), codec="int8")
    meta = replace(PLAIN.meta, spec=LATENT)
    latent = Segment(meta, random_kv(meta, 0), PLAIN.recompute_inputs)
    with pytest.raises(IncompatibleMemoryError, match=r"^layer 0 caches latent 1×24 float32"):
        _ = latent.kv_LCHTD


def states_of(num_states: int, dtype: str = "float32") -> LayerSpec:
    return LayerSpec(tuple(TensorSpec.state(f"recurrent_{number}", (2, 3), dtype) for number in range(num_states)))


MIXED = replace(SPEC, layers=(*LATENT.layers, states_of(1), SPEC.layers[0], LayerSpec(()), states_of(2, "bfloat16")))


@pytest.mark.parametrize("codec", ["none", "bf16", "int8", "int4"])
def test_a_codec_takes_every_layer_on_its_own(codec: CodecName) -> None:
    """Of states not one bit is lost."""
    meta = replace(make_segment([(40, 2), (0, 0), (3, 1)]).meta, spec=MIXED)
    layout = meta.layout()
    buffer = torch.zeros(layout.num_bytes, dtype=torch.uint8)
    generator = torch.Generator().manual_seed(3)
    for place in layout.tensors:
        view = place.view(buffer)
        view.copy_(torch.randn(view.shape, generator=generator))
    inputs = make_segment([(40, 2), (0, 0), (3, 1)]).recompute_inputs
    header, body = encode_chunk(SegmentChunk.whole(Segment(meta, InMemoryKV(layout, buffer), inputs)), codec=codec)
    assert body.numel() == coded_layout_bytes(layout, codec)
    assert layout.num_bytes == sum(meta.lengths) * MIXED.bytes_per_token + 3 * MIXED.state_bytes
    back = decode_chunk(header, body, expected=MIXED).kv.buffer()
    for place in layout.tensors:
        got, expected = place.view(back).float(), place.view(buffer).float()
        if codec == "none" or place.spec.state_dims is not None:
            assert torch.equal(got, expected)
        else:
            assert 0 < (got - expected).norm() < {"bf16": 0.01, "int8": 0.02, "int4": 0.2}[codec] * expected.norm()
    with pytest.raises(WireError, match="truncated"):
        decode_chunk(header, body[:-1])


def test_states_are_in_the_last_chunk_of_a_segment() -> None:
    meta = replace(make_segment([(4, 2), (1, 0)]).meta, spec=MIXED)
    parts = [((0, 0), (4, 1), False), ((4, 1), (2, 0), True), ((0, 0), (6, 1), True), ((0, 0), (0, 0), False)]
    assert [meta.layout(begins, lengths).has_states for begins, lengths, _ in parts] == [last for *_, last in parts]
    assert not replace(meta, is_open=True).layout().has_states
    assert meta.bytes_per_question == (
        6 * MIXED.bytes_per_token + MIXED.state_bytes,
        MIXED.bytes_per_token + MIXED.state_bytes,
    )


def test_states_that_make_no_sense_are_refused() -> None:
    state, key = TensorSpec.state("recurrent_0", (2, 3), "float32"), TensorSpec("key", 1, 4, "float32")
    with pytest.raises(IncompatibleMemoryError, match="come last"):
        LayerSpec((state, key))
    for change in ({"head_dim": 7}, {"num_heads": 2}, {"rope": ROPE}, {"state_dims": ()}, {"state_dims": (6, 0)}):
        with pytest.raises(IncompatibleMemoryError, match="impossible"):
            replace(state, **change)
    assert KVCacheSpec.from_header(MIXED.to_header()) == MIXED
    assert MIXED.has_states
    assert not SPEC.has_states


def test_the_header_of_forty_layers_is_no_longer_than_that_of_two() -> None:
    lengths = []
    for num_layers in (2, 40):
        segment = make_segment([(3, 1)], spec=reshaped(SPEC, num_layers=num_layers))
        lengths.append(len(encode_chunk(SegmentChunk.whole(segment))[0]))
    assert lengths[0] == lengths[1]


def test_nothing_of_no_question_is_nothing() -> None:
    kv = concatenate_kv(replace(SLIDING, kept=None).take([]).layout(), [])
    assert kv.buffer().numel() == 0
