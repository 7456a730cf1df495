"""Segments check themselves, and some of their questions are what they were."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from latentmas_ray.errors import SegmentError
from latentmas_ray.memory import LATENT, RecomputeInputs, Segment
from tests.cases.memory import assert_equal, make_segment, segments, take


@given(segments(), st.data())
def test_take_permutes_questions(segment: Segment, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(segment.num_questions)))
    taken = take(segment, order)
    for place, question in enumerate(order):
        assert torch.equal(taken.kv_of(place), segment.kv_of(question))
        assert taken.turn_starts[place] == segment.turn_starts[question]
        assert taken.turn_ends[place] == segment.turn_ends[question]
    back = take(taken, [order.index(question) for question in range(segment.num_questions)])
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


@given(segments())
def test_sizes_agree(segment: Segment) -> None:
    kv = segment.kv_LCHTD
    assert segment.meta.num_bytes == kv.numel() * kv.element_size() == sum(segment.meta.bytes_per_question)
    assert segment.kv.layout.num_tokens == kv.shape[3] == sum(segment.lengths)


def test_questions_of_no_token_keep_their_place() -> None:
    segment = make_segment([(0, 0), (2, 1), (0, 0)], turn_starts=[5, 6, 7])
    assert [segment.kv_of(question).shape[3] for question in range(3)] == [0, 3, 0]
    assert segment.turn_ends == (5, 9, 7)
    assert take(segment, [2, 0]).turn_starts == (7, 5)
    assert take(segment, []).num_questions == 0


def test_the_recipe_follows_its_questions() -> None:
    segment = make_segment([(2, 1), (1, 2), (3, 0)])
    taken = take(segment, [1, 0]).recompute_inputs
    assert taken.lengths == (3, 3)
    assert taken.latents_per_question() == (2, 1)
    assert taken.token_ids_T.tolist() == [
        *segment.recompute_inputs.token_ids_T[3:6].tolist(),
        *segment.recompute_inputs.token_ids_T[:3].tolist(),
    ]
    assert torch.equal(taken.latents_NE, segment.recompute_inputs.latents_NE[[1, 2, 0]])


def changed(segment: Segment, **change: Any) -> Segment:
    meta = segment.meta
    parts = {
        "spec": meta.spec,
        "kv_LCHTD": segment.kv_LCHTD,
        "lengths": meta.lengths,
        "turn_starts": meta.turn_starts,
        "offsets": meta.offsets,
        "recompute_inputs": segment.recompute_inputs,
    }
    return Segment.from_tensor(**{**parts, **change})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"lengths": (2, 2)}, "spec wants"),
        ({"lengths": (3,)}, "questions"),
        ({"lengths": (5,)}, "questions"),
        ({"lengths": (6, -1)}, "turn of"),
        ({"turn_starts": (0,)}, "questions"),
        ({"turn_starts": (-1, 0)}, "position -1"),
        ({"offsets": (0, 0, 0)}, "questions"),
        ({"offsets": (1, 0)}, "turn of"),
        ({"offsets": (-1, 0)}, "turn of"),
        ({"kv_LCHTD": torch.zeros(2, 2, 2, 5, 4, dtype=torch.bfloat16)}, "float32"),
        ({"kv_LCHTD": torch.zeros(2, 2, 2, 4, 5).transpose(3, 4)}, "contiguous"),
        ({"kv_LCHTD": torch.zeros(1, 2, 2, 5, 4)}, "spec wants"),
        (
            {"recompute_inputs": RecomputeInputs(torch.zeros(5, dtype=torch.int64), torch.zeros(0, 6), (5,))},
            "questions",
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
        changed(make_segment([(3, 0), (1, 1)]), **change)


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
def test_recompute_inputs_that_contradict_themselves_are_refused(ids: torch.Tensor, latents: torch.Tensor) -> None:
    with pytest.raises(SegmentError, match="recompute inputs"):
        RecomputeInputs(ids, latents, (3,))
