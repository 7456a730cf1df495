"""A mask is read off its function: full, a window of it, or what the engine does not know."""

from collections.abc import Callable

import pytest

from latentmas_ray.errors import ModelError
from latentmas_ray.models.probe.windows import find_window

Mask = Callable[[int, int], bool]


def sliding(size: int) -> Mask:
    return lambda query, key: query - size < key <= query


def chunks(size: int) -> Mask:
    return lambda query, key: key <= query and key // size == query // size


@pytest.mark.parametrize("limit", [1, 2, 100, 4096, 2**20])
def test_a_causal_mask_has_no_window(limit: int) -> None:
    assert find_window(lambda query, key: key <= query, limit, "layer 0", "m") is None


@pytest.mark.parametrize("size", [1, 2, 7, 128, 4095])
def test_a_window_is_found(size: int) -> None:
    assert find_window(sliding(size), 4096, "layer 0", "m") == size


@pytest.mark.parametrize("limit", [1, 8, 100])
def test_a_window_of_all_positions_is_none(limit: int) -> None:
    assert find_window(sliding(limit), limit, "layer 0", "m") is None
    assert find_window(chunks(limit), limit, "layer 0", "m") is None


@pytest.mark.parametrize("size", [2, 16, 50, 99])
def test_chunks_are_refused_with_what_would_work(size: int) -> None:
    with pytest.raises(ModelError, match=f"layer 3 sees chunks of {size} positions, so at most {size} positions"):
        find_window(chunks(size), 100, "layer 3", "m")


@pytest.mark.parametrize(
    "mask",
    [lambda query, key: True, lambda query, key: abs(query - key) < 5, lambda query, key: key < query],
    ids=["all", "both sides", "not itself"],
)
def test_a_mask_that_is_not_causal_is_refused(mask: Mask) -> None:
    with pytest.raises(ModelError, match="must see itself and what is before it alone; layer 0"):
        find_window(mask, 100, "layer 0", "m")
