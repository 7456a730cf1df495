"""Segments check themselves; taking, splitting, joining and slicing them loses nothing."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from latentmas_ray.errors import IncompatibleMemoryError, SegmentError
from latentmas_ray.memory import LATENT, RecomputeInputs, Segment, concatenate
from tests.cases.memory import SPEC, assert_equal, make_segment, segments, spec_of


@given(segments())
def test_split_then_concatenate_is_the_same_segment(segment: Segment) -> None:
    pieces = segment.split()
    assert [piece.num_questions for piece in pieces] == [1] * segment.num_questions
    assert_equal(concatenate(pieces), segment)


@given(segments(), st.data())
def test_take_permutes_questions(segment: Segment, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(segment.num_questions)))
    taken = segment.take(order)
    for place, question in enumerate(order):
        assert torch.equal(taken.kv_of(place), segment.kv_of(question))
        assert taken.starts[place] == segment.starts[question]
        assert taken.turn_ends[place] == segment.turn_ends[question]
    back = taken.take([order.index(question) for question in range(segment.num_questions)])
    assert_equal(back, segment)


@given(segments(), st.data())
def test_the_head_of_a_recipe_is_its_first_inputs_with_their_thoughts(segment: Segment, data: st.DataObject) -> None:
    recompute_inputs = segment.recompute_inputs
    counts = [data.draw(st.integers(0, length + 2)) for length in recompute_inputs.lengths]
    head = recompute_inputs.head(counts)
    for question, count in enumerate(counts):
        part, whole = head.take([question]), recompute_inputs.take([question])
        assert part.token_ids_T.tolist() == whole.token_ids_T[:count].tolist()
        assert torch.equal(part.latents_NE, whole.latents_NE[: len(part.latents_NE)])


@given(segments(), st.data())
def test_slices_keep_positions_and_recipe(segment: Segment, data: st.DataObject) -> None:
    windows = [
        tuple(sorted(data.draw(st.tuples(st.integers(0, length), st.integers(0, length)))))
        for length in segment.lengths
    ]
    part = segment.slice(windows)
    for question, (first, stop) in enumerate(windows):
        assert torch.equal(part.kv_of(question), segment.kv_of(question)[:, :, :, first:stop])
        assert part.starts[question] == segment.starts[question] + first
    assert part.turn_ends == segment.turn_ends
    assert torch.equal(part.recompute_inputs.token_ids_T, segment.recompute_inputs.token_ids_T)
    assert part.kv_LCHTD.is_contiguous()


@given(segments())
def test_sizes_agree(segment: Segment) -> None:
    kv = segment.kv_LCHTD
    assert segment.num_bytes == kv.numel() * kv.element_size() == sum(segment.bytes_per_question)
    assert segment.num_tokens == kv.shape[3] == sum(segment.lengths)


def test_a_part_of_a_question_is_a_view_and_a_taken_one_is_not() -> None:
    segment = make_segment([(3, 0), (2, 1)])
    assert segment.kv_of(1).data_ptr() == segment.kv_LCHTD[:, :, :, 3:].data_ptr()
    before = segment.kv_LCHTD.clone()
    segment.take([1]).kv_LCHTD.zero_()
    assert torch.equal(segment.kv_LCHTD, before)


def test_questions_of_no_token_keep_their_place() -> None:
    segment = make_segment([(0, 0), (2, 1), (0, 0)], turn_starts=[5, 6, 7])
    assert [piece.num_tokens for piece in segment.split()] == [0, 3, 0]
    assert segment.turn_ends == (5, 9, 7)
    assert segment.take([2, 0]).turn_starts == (7, 5)
    assert segment.take([]).num_questions == 0


def test_the_recipe_follows_its_questions() -> None:
    segment = make_segment([(2, 1), (1, 2), (3, 0)])
    taken = segment.take([1, 0]).recompute_inputs
    assert taken.lengths == (3, 3)
    assert taken.latents_per_question() == (2, 1)
    assert taken.token_ids_T.tolist() == [
        *segment.recompute_inputs.token_ids_T[3:6].tolist(),
        *segment.recompute_inputs.token_ids_T[:3].tolist(),
    ]
    assert torch.equal(taken.latents_NE, segment.recompute_inputs.latents_NE[[1, 2, 0]])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"lengths": (2, 2)}, "spec wants"),
        ({"lengths": (3,)}, "spec wants"),
        ({"lengths": (5,)}, "1 lengths"),
        ({"lengths": (6, -1)}, "turn of"),
        ({"turn_starts": (0,)}, "2 lengths"),
        ({"turn_starts": (-1, 0)}, "position -1"),
        ({"offsets": (0, 0, 0)}, "2 lengths"),
        ({"offsets": (1, 0)}, "turn of"),
        ({"offsets": (-1, 0)}, "turn of"),
        ({"kv_LCHTD": torch.zeros(2, 2, 2, 5, 4, dtype=torch.bfloat16)}, "float32"),
        ({"kv_LCHTD": torch.zeros(2, 2, 2, 4, 5).transpose(3, 4)}, "contiguous"),
        ({"kv_LCHTD": torch.zeros(1, 2, 2, 5, 4)}, "spec wants"),
        (
            {"recompute_inputs": RecomputeInputs(torch.zeros(5, dtype=torch.int64), torch.zeros(0, 6), (5,))},
            "2 lengths",
        ),
        (
            {"recompute_inputs": RecomputeInputs(torch.zeros(4, dtype=torch.int64), torch.zeros(0, 6), (2, 2))},
            "turn of",
        ),
        ({"recompute_inputs": RecomputeInputs(torch.zeros(5, dtype=torch.int64), torch.zeros(0, 7), (3, 2))}, "size 7"),
        (
            {
                "recompute_inputs": RecomputeInputs(
                    torch.zeros(5, dtype=torch.int64), torch.zeros(0, 6, dtype=torch.float64), (3, 2)
                )
            },
            "float64",
        ),
    ],
)
def test_contradictions_are_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(SegmentError, match=reason):
        replace(make_segment([(3, 0), (1, 1)]), **change)


@pytest.mark.parametrize(
    ("ids", "latents"),
    [
        (torch.tensor([1, LATENT, 2]), torch.zeros(0, 6)),
        (torch.tensor([1, 2, 3]), torch.zeros(1, 6)),
        (torch.tensor([1, 2]), torch.zeros(0, 6)),
        (torch.tensor([1, 2, 3], dtype=torch.int32), torch.zeros(0, 6)),
        (torch.tensor([1, LATENT, 2]), torch.zeros(6)),
    ],
)
def test_a_recipe_that_contradicts_itself_is_refused(ids: torch.Tensor, latents: torch.Tensor) -> None:
    with pytest.raises(SegmentError, match="recipe"):
        RecomputeInputs(ids, latents, (3,))


@pytest.mark.parametrize("windows", [[(0, 1)], [(0, 4), (0, 1)], [(2, 1), (0, 1)], [(-1, 1), (0, 1)]])
def test_windows_outside_a_question_are_refused(windows: list[tuple[int, int]]) -> None:
    with pytest.raises(SegmentError, match="window"):
        make_segment([(3, 0), (2, 0)]).slice(windows)


def test_only_segments_of_one_model_are_joined() -> None:
    segment = make_segment([(1, 1)])
    with pytest.raises(SegmentError, match="no segment"):
        concatenate([])
    with pytest.raises(IncompatibleMemoryError, match="weights_revision"):
        concatenate([segment, make_segment([(1, 1)], spec=replace(SPEC, weights_revision="r1"))])
    with pytest.raises(IncompatibleMemoryError, match="dtype"):
        concatenate([segment, make_segment([(1, 1)], spec=spec_of("bfloat16"))])
