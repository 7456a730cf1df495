"""KV heads move from shards of one tensor-parallel degree to shards of another: each exactly once, bit for bit."""

import pickle
from dataclasses import replace
from itertools import accumulate

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from latentmas_ray.errors import IncompatibleMemoryError, SegmentError
from latentmas_ray.memory import KVCacheSpec, SegmentChunk, TPRank, join
from latentmas_ray.memory.reslice import HeadRange, head_ranges, reslice, sources_of
from latentmas_ray.memory.wire import decode_chunk, encode_chunk
from tests.cases.memory import SPEC, assert_equal, cut, make_segment, reshaped

WHOLE = reshaped(SPEC, num_kv_heads=12)
DEGREES = [1, 2, 3, 4, 6, 12]
degrees = st.sampled_from(DEGREES)


def shard_of(chunk: SegmentChunk, shard: TPRank) -> SegmentChunk:
    """What one rank of `shard.world_size` has of a chunk of the whole model."""
    spec = chunk.meta.spec.of_shard(shard)
    first = shard.rank * spec.num_kv_heads
    kv_LCHTD = chunk.kv_LCHTD[:, :, first : first + spec.num_kv_heads].contiguous()
    return SegmentChunk.from_tensor(
        replace(chunk.meta, spec=spec), chunk.begins, chunk.lengths, kv_LCHTD, chunk.recompute_inputs
    )


def for_reader(chunk: SegmentChunk, num_sources: int, reader: TPRank) -> SegmentChunk:
    ranks = sources_of(WHOLE.num_kv_heads, num_sources, reader)
    return reslice([shard_of(chunk, TPRank(rank, num_sources)) for rank in ranks], WHOLE.of_shard(reader))


@given(degrees, degrees)
def test_every_head_goes_to_exactly_one_reader(num_sources: int, num_readers: int) -> None:
    per_source = WHOLE.num_kv_heads // num_sources
    taken = [
        heads.source * per_source + head
        for rank in range(num_readers)
        for heads in head_ranges(WHOLE.num_kv_heads, num_sources, TPRank(rank, num_readers))
        for head in range(heads.first, heads.stop)
    ]
    assert taken == list(range(WHOLE.num_kv_heads))


@given(degrees, degrees)
def test_nothing_is_taken_from_a_shard_that_has_nothing(num_sources: int, num_readers: int) -> None:
    per_source = WHOLE.num_kv_heads // num_sources
    for rank in range(num_readers):
        for heads in head_ranges(WHOLE.num_kv_heads, num_sources, TPRank(rank, num_readers)):
            assert 0 <= heads.first < heads.stop <= per_source


@pytest.mark.parametrize(
    ("num_sources", "reader", "expected"),
    [
        (2, TPRank(0, 2), [HeadRange(0, 0, 4)]),
        (2, TPRank(1, 2), [HeadRange(1, 0, 4)]),
        (2, TPRank(0, 1), [HeadRange(0, 0, 4), HeadRange(1, 0, 4)]),
        (1, TPRank(1, 2), [HeadRange(0, 4, 8)]),
        (4, TPRank(1, 2), [HeadRange(2, 0, 2), HeadRange(3, 0, 2)]),
    ],
    ids=str,
)
def test_equal_degrees_go_rank_to_rank(num_sources: int, reader: TPRank, expected: list[HeadRange]) -> None:
    assert list(head_ranges(8, num_sources, reader)) == expected


@given(degrees, degrees, st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=3), st.data())
def test_a_reader_gets_the_bits_of_its_heads(
    num_sources: int, num_readers: int, turns: list[tuple[int, int]], data: st.DataObject
) -> None:
    segment = make_segment(turns, spec=WHOLE)
    chunks = cut(segment, [data.draw(st.integers(0, length)) for length in segment.recompute_inputs.lengths])
    for rank in range(num_readers):
        reader = TPRank(rank, num_readers)
        got = [for_reader(chunk, num_sources, reader) for chunk in chunks]
        expected = [shard_of(chunk, reader) for chunk in chunks]
        assert_equal(join(got), join(expected))
        for mine, other in zip(got, expected, strict=True):
            for question in range(len(turns)):
                parts = list(mine.head_views(question))
                assert [head for head, _ in parts] == [0, *accumulate(kv.shape[2] for _, kv in parts)][:-1]
                assert torch.equal(torch.cat([kv for _, kv in parts], dim=2), other.kv_of(question))


def test_views_share_the_bytes_that_came() -> None:
    chunk = SegmentChunk.whole(make_segment([(3, 2)], spec=WHOLE))
    got = reslice([chunk], WHOLE.of_shard(TPRank(1, 3)))
    _, kv_LCHTD = next(iter(got.head_views(0)))
    assert kv_LCHTD.untyped_storage().data_ptr() == chunk.kv_LCHTD.untyped_storage().data_ptr()


def test_the_same_degree_is_the_same_chunk() -> None:
    chunk = shard_of(SegmentChunk.whole(make_segment([(3, 2)], spec=WHOLE)), TPRank(1, 2))
    assert reslice([chunk], WHOLE.of_shard(TPRank(1, 2))) is chunk


def test_bytes_are_those_that_came() -> None:
    chunk = SegmentChunk.whole(make_segment([(3, 2)], spec=WHOLE))
    half = for_reader(chunk, 1, TPRank(0, 2))
    assert (half.num_bytes, half.travel_bytes) == (chunk.num_bytes // 2, chunk.num_bytes)
    joined = for_reader(chunk, 2, TPRank(0, 1))
    assert joined.num_bytes == joined.travel_bytes == chunk.num_bytes


def test_a_resliced_chunk_travels_and_pickles() -> None:
    chunk = SegmentChunk.whole(make_segment([(3, 2), (1, 0)], spec=WHOLE))
    got = for_reader(chunk, 4, TPRank(1, 2))
    assert_equal(join([pickle.loads(pickle.dumps(got))]), join([got]))
    assert_equal(join([decode_chunk(*encode_chunk(got), expected=WHOLE.of_shard(TPRank(1, 2)))]), join([got]))


def test_the_loss_of_a_codec_is_the_worst_of_the_shards() -> None:
    chunk = SegmentChunk.whole(make_segment([(9, 2)], spec=WHOLE))
    sources = [shard_of(chunk, TPRank(rank, 2)) for rank in range(2)]
    came = [decode_chunk(*encode_chunk(source, codec="int8")) for source in sources]
    got = reslice(came, WHOLE)
    assert got.codec_stats is not None
    assert got.codec_stats.relative_error == max(one.codec_stats.relative_error for one in came if one.codec_stats)
    assert got.travel_bytes == sum(one.travel_bytes for one in came)


def test_wrong_chunks_are_refused() -> None:
    chunks = cut(make_segment([(3, 2)], spec=WHOLE), [3])
    first = [shard_of(chunks[0], TPRank(rank, 2)) for rank in range(2)]
    rest = [shard_of(chunks[1], TPRank(rank, 2)) for rank in range(2)]
    for wrong in ([], [first[0]], [first[1], first[0]], [first[0], rest[1]], [first[0], first[0]]):
        with pytest.raises(SegmentError):
            reslice(wrong, WHOLE)
    other = replace(WHOLE, weights_revision="r1")
    with pytest.raises(IncompatibleMemoryError, match="weights_revision"):
        reslice(first, other)


def test_a_shard_of_memory_does_not_pass_for_another() -> None:
    spec: KVCacheSpec = WHOLE.of_shard(TPRank(0, 2))
    with pytest.raises(IncompatibleMemoryError, match="rank 1 of 2, not rank 0 of 2"):
        spec.check_same(WHOLE.of_shard(TPRank(1, 2)))
    with pytest.raises(IncompatibleMemoryError, match="rank 0 of 1"):
        spec.check_same(WHOLE)
    with pytest.raises(IncompatibleMemoryError, match="5 ranks"):
        WHOLE.of_shard(TPRank(0, 5))
