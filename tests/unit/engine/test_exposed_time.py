"""Exposed time is part of the time of a transfer, whatever the reader does and whatever the clocks say."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentmas_ray.engine.timing import exposed_time
from latentmas_ray.engine.timing.exposed_time import ExposedTimer

SOURCES = ("planner", "critic")
TIMES = st.floats(-1e4, 1e4)
# What the reader does: for whose chunk, how long it waits before, and how long it takes; a clock may be set back.
STEPS = st.lists(
    st.tuples(st.sampled_from([*SOURCES, None]), st.floats(-2, 10), st.floats(0, 10), st.none() | TIMES), max_size=8
)


class Clock:
    """The reader's clock, set by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(exposed_time.time, "time", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@given(final_at=st.fixed_dictionaries(dict.fromkeys(SOURCES, TIMES)), idle_since=TIMES, steps=STEPS)
def test_the_exposed_part_is_never_more_than_the_whole(
    final_at: dict[str, float], idle_since: float, steps: list[tuple[Any, ...]]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock(patch)
        timer = ExposedTimer(final_at, idle_since=idle_since)
        for source, waited, taken, final in steps:
            clock.now += waited
            begin = clock.now
            clock.now += taken
            if source is None:
                timer.record_other_work()
                continue
            if final is not None:
                timer.note_final(source, final)
            timer.record(source, begin)
        times = timer.times()
    assert set(times) == set(SOURCES)
    for one in times.values():
        assert 0 <= one.exposed_seconds <= one.seconds


@pytest.mark.parametrize(
    ("idle_since", "final_at", "arrived", "absorbed", "seconds", "exposed"),
    [
        (0.0, 10.0, 13.0, 14.0, 4.0, 4.0),  # idle: the way from the source is part of the transfer, and exposed
        (12.0, 10.0, 13.0, 14.0, 2.0, 2.0),  # it became idle while the memory was on its way
        (13.5, 10.0, 13.0, 14.0, 1.0, 0.5),  # it was busy with something else until it had begun to absorb
        (20.0, 10.0, 13.0, 14.0, 1.0, 0.0),  # all of it was hidden
        (0.0, 99.0, 13.0, 14.0, 1.0, 0.0),  # the source's clock is ahead: the reader's own time is left
    ],
)
def test_one_chunk(
    clock: Clock, idle_since: float, final_at: float, arrived: float, absorbed: float, seconds: float, exposed: float
) -> None:
    timer = ExposedTimer({"planner": final_at}, idle_since=idle_since)
    clock.now = absorbed
    timer.record("planner", arrived)
    found = timer.times()["planner"]
    assert (found.seconds, found.exposed_seconds) == (seconds, exposed)


@pytest.mark.parametrize(("busy", "exposed"), [(0.0, 4.0), (1.5, 2.5), (9.0, 0.0)])
def test_what_the_engine_computed_for_others_is_hidden(clock: Clock, busy: float, exposed: float) -> None:
    asked: list[tuple[float, float]] = []

    def busy_within(begin: float, end: float) -> float:
        asked.append((begin, end))
        return busy

    timer = ExposedTimer({"planner": 10.0}, idle_since=0.0, busy_within=busy_within)
    clock.now = 14.0
    timer.record("planner", 13.0)
    found = timer.times()["planner"]
    assert (found.seconds, found.exposed_seconds) == (4.0, exposed)
    assert asked == [(10.0, 14.0)]
