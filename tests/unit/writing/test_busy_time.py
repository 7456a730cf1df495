"""How long an engine was busy within a span."""

import pytest

from latentmas_ray.writing.busy_time import BusyTime


def test_busy_time_counts_what_lies_within() -> None:
    busy = BusyTime()
    for begin, end in ((0.0, 1.0), (1.001, 2.0), (5.0, 6.0)):
        busy.record(begin, end)
    assert busy.within(0.5, 5.5) == pytest.approx(2.0)
    assert busy.within(2.5, 4.5) == 0.0
    assert busy.within(6.0, 9.0) == 0.0
