"""Where each segment of a memory stands for its reader: chains, branches, diamonds, gaps."""

from dataclasses import replace

import pytest

from latentmas_ray.errors import IncompatibleMemoryError, SegmentError
from latentmas_ray.memory import MergedLayout, Segment, merge_layout
from latentmas_ray.topology.agent import AgentMemory
from tests.cases.memory import SPEC, make_segment

A = AgentMemory("a")


def shifts_of(placement: MergedLayout) -> dict[str, tuple[int, ...]]:
    return {placed.agent: placed.shifts for placed in placement.segments}


def turn(lengths: list[int], starts: list[int]) -> Segment:
    return make_segment([(length, 0) for length in lengths], turn_starts=starts)


def test_a_reader_of_nothing_starts_at_zero() -> None:
    empty = merge_layout([], {}, 3)
    assert (empty.segments, empty.next_positions, empty.lengths) == ((), (0, 0, 0), (0, 0, 0))


def test_a_chain_is_moved_nowhere() -> None:
    chain = AgentMemory("c", (AgentMemory("b", (A,)),))
    segments = {"c": turn([2, 2], [8, 11]), "a": turn([5, 7], [0, 0]), "b": turn([3, 4], [5, 7])}
    placement = merge_layout([chain], segments, 2)
    assert shifts_of(placement) == {"a": (0, 0), "b": (0, 0), "c": (0, 0)}
    assert [placed.agent for placed in placement.segments] == ["a", "b", "c"]
    assert placement.next_positions == (10, 13)
    assert placement.lengths == (10, 13)


def test_branches_follow_one_another_in_the_order_of_reads() -> None:
    segments = {"a": turn([5, 7], [0, 0]), "b": turn([3, 4], [0, 0]), "c": turn([2, 2], [0, 0])}
    branches = {name: AgentMemory(name) for name in segments}
    forward = merge_layout([branches["a"], branches["b"], branches["c"]], segments, 2)
    assert shifts_of(forward) == {"a": (0, 0), "b": (5, 7), "c": (8, 11)}
    backward = merge_layout([branches["c"], branches["b"], branches["a"]], segments, 2)
    assert shifts_of(backward) == {"c": (0, 0), "b": (2, 2), "a": (5, 6)}
    assert forward.next_positions == backward.next_positions == (10, 13)


def test_a_shared_prefix_stands_once() -> None:
    segments = {"a": turn([5, 6], [0, 0]), "b": turn([3, 3], [5, 6]), "c": turn([2, 4], [5, 6])}
    placement = merge_layout([AgentMemory("b", (A,)), AgentMemory("c", (A,))], segments, 2)
    assert shifts_of(placement) == {"a": (0, 0), "b": (0, 0), "c": (3, 3)}
    assert placement.next_positions == (10, 13)
    assert placement.lengths == (10, 13)


def test_an_agent_that_read_a_merge_keeps_its_positions() -> None:
    segments = {"a": turn([5], [0]), "b": turn([3], [0]), "c": turn([2], [8]), "d": turn([4], [0])}
    merged = AgentMemory("c", (A, AgentMemory("b")))
    assert shifts_of(merge_layout([merged], segments, 1)) == {"a": (0,), "b": (5,), "c": (0,)}
    beside = merge_layout([merged, AgentMemory("d")], segments, 1)
    assert shifts_of(beside) == {"a": (0,), "b": (5,), "c": (0,), "d": (10,)}
    behind = merge_layout([AgentMemory("d"), merged], segments, 1)
    assert shifts_of(behind) == {"d": (0,), "a": (4,), "b": (9,), "c": (4,)}
    assert beside.next_positions == behind.next_positions == (14,)


def test_a_reader_of_an_agent_and_of_what_it_had_read_gets_everything_once() -> None:
    segments = {"a": turn([5], [0]), "b": turn([3], [5])}
    reader = AgentMemory("b", (A,))
    for reads in ([A, reader], [reader, A]):
        placement = merge_layout(reads, segments, 1)
        assert shifts_of(placement) == {"a": (0,), "b": (0,)}
        assert placement.next_positions == (8,)


@pytest.mark.parametrize("window", [(0, 2), (2, 6), (6, 6)])
def test_what_is_not_handed_over_leaves_a_gap(window: tuple[int, int]) -> None:
    part = make_segment([(2, 4)], windows=[window])
    segments = {"a": part, "b": turn([3], [0])}
    placement = merge_layout([A, AgentMemory("b")], segments, 1)
    assert shifts_of(placement) == {"a": (0,), "b": (6,)}
    assert placement.next_positions == (9,)
    assert placement.lengths == (window[1] - window[0] + 3,)


def test_questions_of_no_token_stand_nowhere() -> None:
    segments = {"a": turn([0, 4], [0, 0]), "b": turn([3, 0], [0, 0])}
    placement = merge_layout([A, AgentMemory("b")], segments, 2)
    assert shifts_of(placement) == {"a": (0, 0), "b": (0, 4)}
    assert placement.next_positions == (3, 4)


def test_a_memory_that_was_not_given_is_named() -> None:
    with pytest.raises(SegmentError, match="'a'"):
        merge_layout([AgentMemory("b", (A,))], {"b": turn([1], [0])}, 1)


def test_a_memory_of_other_questions_is_named() -> None:
    with pytest.raises(SegmentError, match="'a' wrote for 2 questions, not 3"):
        merge_layout([A], {"a": turn([1, 1], [0, 0])}, 3)


def test_memories_of_two_models_do_not_mix() -> None:
    other = make_segment([(1, 0)], spec=replace(SPEC, architecture="OtherForCausalLM"))
    with pytest.raises(IncompatibleMemoryError, match="architecture"):
        merge_layout([A, AgentMemory("b")], {"a": turn([1], [0]), "b": other}, 1)


def test_segments_that_nobody_reads_are_ignored() -> None:
    placement = merge_layout([A], {"a": turn([2], [0]), "stranger": turn([1, 1], [0, 0])}, 1)
    assert [placed.agent for placed in placement.segments] == ["a"]
