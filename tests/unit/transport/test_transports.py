"""What every transport must do, and what the object store's does with the bytes."""

import pickle
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from latentmas_ray.config import CodecName
from latentmas_ray.errors import ConfigError, IncompatibleMemoryError, TransferError, WireError
from latentmas_ray.memory import LayerSpec, Segment, SegmentChunk, TensorSpec, join
from latentmas_ray.memory.codec import relative_error
from latentmas_ray.transport import (
    DeviceLayout,
    Gloo,
    Loopback,
    ObjectStore,
    PerLink,
    SharedMemory,
    Tcp,
    Transport,
    pick_transport,
)
from tests.cases.layers import random_kv
from tests.cases.memory import ROPE, SPEC, make_segment, spec_of

TRANSPORTS = [
    Loopback(),
    Loopback().within_one_actor(),
    ObjectStore(),
    SharedMemory(),
    Tcp(5.0),
    Tcp(5.0, shares_memory=False),
    Gloo(5.0),
    PerLink({"same_node": SharedMemory(), "cross_node": ObjectStore()}),
]
each_transport = pytest.mark.parametrize("transport", TRANSPORTS, ids=lambda transport: transport.name)


@pytest.fixture(autouse=True, scope="module")
def opened() -> Iterator[None]:
    for transport in TRANSPORTS:
        transport.open()
    yield
    for transport in TRANSPORTS:
        transport.close()
        transport.close()


def assert_same(one: Segment, other: Segment) -> None:
    assert one.spec == other.spec
    assert torch.equal(one.kv_LCHTD.view(torch.uint8), other.kv_LCHTD.view(torch.uint8))
    assert torch.equal(one.recompute_inputs.token_ids_T, other.recompute_inputs.token_ids_T)
    assert torch.equal(one.recompute_inputs.latents_NE, other.recompute_inputs.latents_NE)
    assert one.meta == other.meta
    assert one.recompute_inputs.lengths == other.recompute_inputs.lengths


def through(transport: Transport, segment: Segment) -> Segment:
    return join([transport.unpack(transport.pack(SegmentChunk.whole(segment)), expected=segment.spec)])


@each_transport
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_segment_arrives_as_it_left(transport: Transport, dtype: str) -> None:
    spec = spec_of(dtype)
    segment = make_segment([(5, 2), (1, 0), (3, 4)], turn_starts=[7, 0, 2], spec=spec)
    before = segment.kv_LCHTD.clone()
    assert_same(through(transport, segment), segment)
    assert torch.equal(segment.kv_LCHTD, before)


@each_transport
def test_a_part_of_a_turn_and_an_empty_one_arrive(transport: Transport) -> None:
    segment = make_segment([(5, 2), (3, 0)], windows=[(5, 7), (3, 3)])
    assert_same(through(transport, segment), segment)


@each_transport
def test_layers_that_differ_arrive(transport: Transport) -> None:
    """Latents, states, and a layer that caches nothing."""
    rotary = TensorSpec("rotary_key", 1, 4, "bfloat16", ROPE)
    latent = LayerSpec((TensorSpec("latent", 1, 7, "float16"), rotary))
    state = LayerSpec((TensorSpec.state("conv_0", (3, 5), "float32"),))
    spec = replace(SPEC, layers=(latent, state, LayerSpec(()), SPEC.layers[0]))
    plain = make_segment([(5, 2), (3, 0)])
    meta = replace(plain.meta, spec=spec)
    segment = Segment(meta, random_kv(meta, 1), plain.recompute_inputs)
    arrived = through(transport, segment)
    assert (arrived.meta, arrived.layout()) == (segment.meta, segment.layout())
    assert torch.equal(arrived.kv.buffer(), segment.kv.buffer())
    assert arrived.meta.num_bytes == 10 * spec.bytes_per_token + 2 * 60


@each_transport
def test_two_readers_get_the_same(transport: Transport) -> None:
    segment = make_segment([(5, 2)])
    payload = transport.pack(SegmentChunk.whole(segment))
    for _ in range(2):
        assert_same(join([transport.unpack(payload, expected=SPEC)]), segment)


@each_transport
def test_memory_of_another_model_is_refused(transport: Transport) -> None:
    payload = transport.pack(SegmentChunk.whole(make_segment([(5, 2)])))
    with pytest.raises(IncompatibleMemoryError, match="weights_revision is 'r0', not 'r1'"):
        transport.unpack(payload, expected=replace(SPEC, weights_revision="r1"))


def test_the_object_store_copies_neither_when_packing_nor_when_unpacking() -> None:
    transport = ObjectStore()
    segment = make_segment([(5, 2)])
    header, kv = transport.pack(SegmentChunk.whole(segment))
    assert kv.ctypes.data == segment.kv_LCHTD.data_ptr()
    assert kv.dtype == np.uint8
    assert kv.ndim == 1
    kv.setflags(write=False)  # as Ray hands it out
    assert transport.unpack((header, kv), expected=SPEC).kv_LCHTD.data_ptr() == kv.ctypes.data


@pytest.mark.parametrize("byte", [0, -1])
def test_the_object_store_notices_a_changed_byte(byte: int) -> None:
    transport = ObjectStore()
    header, kv = transport.pack(SegmentChunk.whole(make_segment([(5, 2)])))
    damaged = kv.copy()
    damaged[byte] ^= 1
    with pytest.raises(WireError, match="damaged"):
        transport.unpack((header, damaged), expected=SPEC)
    with pytest.raises(WireError, match="truncated"):
        transport.unpack((header, kv[:-1]), expected=SPEC)


IN_ONE_PROCESS = DeviceLayout(same_process=True)


@pytest.mark.parametrize("codec", ["bf16", "int8", "int4"])
def test_a_codec_tells_its_loss(codec: CodecName) -> None:
    segment = make_segment([(40, 2), (0, 0), (35, 1)], spec=SPEC)
    transport = ObjectStore().with_codec(codec)
    assert transport.codec == codec
    assert ObjectStore().codec == "none"
    chunk = transport.unpack(transport.pack(SegmentChunk.whole(segment)), expected=SPEC)
    assert chunk.codec_stats is not None
    assert chunk.codec_stats.codec == codec
    assert chunk.travel_bytes == chunk.codec_stats.num_bytes < segment.meta.num_bytes
    true_error = relative_error(segment.kv_LCHTD, chunk.kv_LCHTD)
    assert 0 < true_error < 0.2
    assert chunk.codec_stats.relative_error == pytest.approx(true_error, rel=0.5)  # of the layers that were looked at
    assert torch.equal(chunk.recompute_inputs.latents_NE, segment.recompute_inputs.latents_NE)


def test_a_codec_needs_something_that_is_sent() -> None:
    transport, _ = pick_transport("auto", "int8", IN_ONE_PROCESS)
    assert (transport.name, transport.codec) == ("object_store", "int8")
    with pytest.raises(ConfigError, match="codec: got 'int8'; loopback sends nothing"):
        pick_transport("loopback", "int8", IN_ONE_PROCESS)


def test_the_object_store_checks_bytes_only_where_they_cross_a_network() -> None:
    for nodes, is_checked in (("one", False), ("several", True)):
        transport, _ = pick_transport("object_store", "none", DeviceLayout(nodes=nodes))  # type: ignore[arg-type]
        header, kv = transport.pack(SegmentChunk.whole(make_segment([(5, 2)])))
        damaged = kv.copy()
        damaged[0] ^= 1
        if is_checked:
            with pytest.raises(WireError, match="damaged"):
                transport.unpack((header, damaged), expected=SPEC)
        else:
            transport.unpack((header, damaged), expected=SPEC)


def test_within_one_actor_a_handle_leaves_the_process_and_the_chunk_stays_until_its_release() -> None:
    transport = Loopback().within_one_actor()
    transport.open()
    chunk = SegmentChunk.whole(make_segment([(500, 2)]))
    handle = transport.pack(chunk)
    assert len(pickle.dumps(handle)) < 200
    assert transport.unpack(pickle.loads(pickle.dumps(handle)), expected=SPEC) is chunk
    transport.release(handle)
    transport.release(handle)
    with pytest.raises(TransferError, match="was released"):
        transport.unpack(handle, expected=SPEC)


def test_a_handle_of_another_actor_is_never_taken_for_a_chunk_here() -> None:
    one, other = Loopback().within_one_actor(), Loopback().within_one_actor()
    handles = []
    for transport in (one, other):
        transport.open()
        handles.append(transport.pack(SegmentChunk.whole(make_segment([(5, 2)]))))
    with pytest.raises(TransferError, match="in another actor"):
        other.unpack(handles[0], expected=SPEC)
    other.release(handles[0])
    assert other.unpack(handles[1], expected=SPEC).is_whole
