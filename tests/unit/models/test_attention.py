"""How a forward's rows are divided into calls of attention."""

import pytest

from latentmas_ray.models.attention import Packing


@pytest.mark.parametrize(
    ("starts", "counts", "max_padding", "calls"),
    [
        ([7, 9, 8], [1, 1, 1], None, [(0, 3)]),
        ([7, 0, 9], [1, 5, 1], None, [(0, 1), (1, 2), (2, 3)]),
        ([7, 0, 3, 9, 4], [1, 5, 0, 1, 1], None, [(0, 1), (1, 2), (3, 5)]),
        ([0, 0], [4, 4], None, [(0, 1), (1, 2)]),
        ([3], [0], None, []),
        ([100, 90, 40, 45], [1, 1, 1, 1], 20, [(0, 2), (2, 4)]),  # the third row is 60 shorter
        ([40, 45, 100], [1, 1, 1], 60, [(0, 2), (2, 3)]),  # both would be read 55 slots too far
        ([40, 45, 100], [1, 1, 1], 110, [(0, 3)]),
    ],
)
def test_neighbours_with_one_token_share_a_call(
    starts: list[int], counts: list[int], max_padding: int | None, calls: list[tuple[int, int]]
) -> None:
    packing = Packing(starts, counts, max_padding)
    assert [(call.rows.start, call.rows.stop) for call in packing.calls] == calls
    tokens = [number for call in packing.calls for number in range(call.tokens.start, call.tokens.stop)]
    assert tokens == list(range(sum(counts)))
    for call in packing.calls:
        assert call.num_visible == max(starts[row] for row in range(*calls[packing.calls.index(call)])) + call.count
