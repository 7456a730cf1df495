"""Labels at the ends of lines: close to their lines, without overlaps."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentmas_ray.report.labels import spread

PLACES = st.lists(st.floats(0, 100), min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("places", "spread_out"),
    [
        ([], []),
        ([50.0], [50.0]),
        ([10.0, 90.0], [10.0, 90.0]),
        ([50.0, 50.0], [45.0, 55.0]),
        ([55.0, 50.0], [57.5, 47.5]),
        ([0.0, 1.0], [0.0, 10.0]),
        ([99.0, 100.0, 98.0], [90.0, 100.0, 80.0]),
        ([30.0, 31.0, 80.0], [25.5, 35.5, 80.0]),
    ],
)
def test_labels_move_as_little_as_possible(places: list[float], spread_out: list[float]) -> None:
    assert spread(places, 10.0, low=0.0, high=100.0) == pytest.approx(spread_out)


@given(places=PLACES, gap=st.floats(0.5, 60))
def test_labels_are_apart_in_order_and_inside(places: list[float], gap: float) -> None:
    found = spread(places, gap, low=0.0, high=100.0)
    room = min(gap, 100.0 / max(len(places) - 1, 1))
    assert all(-1e-6 <= place <= 100 + 1e-6 for place in found)
    assert all(second - first >= room - 1e-6 for first, second in pairwise(sorted(found)))
    assert [places[index] for index in sorted(range(len(places)), key=found.__getitem__)] == sorted(places)
