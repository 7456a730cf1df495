"""Segments in chunks: together they are the segment, and nothing else passes for it."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentmas_ray.errors import SegmentError, WireError
from latentmas_ray.memory import Segment, SegmentChunk, join, merge_layout
from latentmas_ray.memory.chunk import close
from latentmas_ray.memory.wire import decode_chunk, encode_chunk
from latentmas_ray.topology.agent import AgentMemory
from tests.cases.memory import assert_equal, cut, make_segment, segments

SMALL = make_segment([(3, 2), (2, 1)], turn_starts=[3, 4])


@given(segments(), st.data())
def test_what_was_cut_is_joined_again(segment: Segment, data: st.DataObject) -> None:
    inputs = [data.draw(st.integers(0, length)) for length in segment.recompute_inputs.lengths]
    chunks = cut(segment, inputs)
    assert sum(chunk.num_bytes for chunk in chunks) == segment.meta.num_bytes
    assert_equal(join(chunks), segment)
    there_and_back = [decode_chunk(*encode_chunk(chunk), expected=segment.spec) for chunk in chunks]
    assert_equal(join(there_and_back), segment)


def test_a_whole_segment_is_its_only_chunk() -> None:
    chunk = SegmentChunk.whole(SMALL)
    assert chunk.is_whole
    assert join([chunk]).kv is SMALL.kv


def test_an_outline_is_enough_to_make_room() -> None:
    first, _ = cut(SMALL, [3, 2])
    assert not first.is_whole
    reads = [AgentMemory("planner")]
    with_outline = merge_layout(reads, {"planner": first.meta}, 2)
    with_segment = merge_layout(reads, {"planner": SMALL}, 2)
    assert with_outline.next_positions == with_segment.next_positions == (8, 7)
    assert with_outline.lengths == with_segment.lengths


@pytest.mark.parametrize("order", [[0], [1], [1, 0], [0, 0], [0, 1, 1], []])
def test_chunks_that_are_not_the_whole_are_refused(order: list[int]) -> None:
    chunks = cut(SMALL, [3, 2])
    with pytest.raises(SegmentError):
        join([chunks[index] for index in order])


def test_chunks_of_two_segments_are_refused() -> None:
    other = make_segment([(3, 2), (2, 1)], turn_starts=[3, 5])
    with pytest.raises(SegmentError, match="different segments"):
        join([cut(SMALL, [3, 2])[0], cut(other, [3, 2])[1]])


@pytest.mark.parametrize(
    "changes",
    [
        {"begins": (-1, 0)},
        {"begins": (3, 2)},
        {"begins": (0,)},
        {"lengths": (2, 2)},
        {"lengths": (3,)},
        {"kv": SMALL.kv},
    ],
)
def test_a_chunk_that_contradicts_its_outline_is_refused(changes: dict[str, object]) -> None:
    first, _ = cut(SMALL, [3, 2])
    with pytest.raises(SegmentError):
        replace(first, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("turn_lengths", [(4, 3), (5,), (5, -1)])
def test_an_outline_that_contradicts_itself_is_refused(turn_lengths: tuple[int, ...]) -> None:
    with pytest.raises(SegmentError):
        replace(SMALL.meta, turn_lengths=turn_lengths)


def test_a_truncated_chunk_is_noticed() -> None:
    header, body = encode_chunk(cut(SMALL, [3, 2])[0])
    with pytest.raises(WireError, match="truncated"):
        decode_chunk(header, body[:-1])


def opened(chunk: SegmentChunk, more: int = 2) -> SegmentChunk:
    """The chunk as it leaves while it is not known how long its turn will be: at most `more` inputs longer."""
    meta = chunk.meta
    longer = {name: tuple(n + more for n in getattr(meta, name)) for name in ("lengths", "turn_lengths")}
    return replace(chunk, meta=replace(meta, **longer, is_open=True))


def test_the_last_chunk_has_the_lengths_of_a_turn_that_ended_early() -> None:
    first, last = cut(SMALL, [3, 2])
    assert not opened(first).is_whole
    assert_equal(join([opened(first), last]), SMALL)
    assert [chunk.meta for chunk in close([opened(first), last])] == [SMALL.meta] * 2
    there_and_back = decode_chunk(*encode_chunk(opened(first)), expected=SMALL.spec)
    assert there_and_back.meta == opened(first).meta


def test_lengths_that_are_not_known_are_not_used() -> None:
    first, last = cut(SMALL, [3, 2])
    with pytest.raises(SegmentError, match="still thinks"):
        merge_layout([AgentMemory("planner")], {"planner": opened(first).meta}, 2)
    with pytest.raises(SegmentError, match="last chunk of a segment is missing"):
        join([opened(first)])
    for wrong in (replace(last, meta=replace(last.meta, turn_starts=(3, 5))), opened(last, 9)):
        with pytest.raises(SegmentError):
            join([opened(first), wrong])
    with pytest.raises(SegmentError, match="different segments"):
        join([opened(first, -1), last])
