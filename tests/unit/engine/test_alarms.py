"""Alarms: found where a figure is out of bounds, and nowhere else."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentmas_ray.engine.diagnostics.alarms import (
    LIMITS,
    AlarmThresholds,
    ThoughtStats,
    find_alarms,
    find_idle_memory,
    first_of_each_kind,
)

QUIET = ThoughtStats(norm=1.0, distance=0.5, likeness=0.5, entropy=1.0)
MAX_ENTROPY = math.log(1000)
NUMBERS = st.floats(0, 1e9)
READINGS = st.lists(
    st.builds(
        ThoughtStats,
        is_finite=st.booleans(),
        norm=NUMBERS,
        distance=st.floats(0, 2),
        likeness=st.none() | st.floats(-1, 1),
        entropy=st.none() | st.floats(0, 12),
    ),
    max_size=30,
)


def alarmed(*readings: ThoughtStats, limits: AlarmThresholds = LIMITS) -> list[tuple[str, int | None]]:
    return [(alarm.kind, alarm.step) for alarm in find_alarms(readings, max_entropy=MAX_ENTROPY, limits=limits)]


def test_quiet_thoughts_give_no_alarm() -> None:
    assert alarmed(*[QUIET] * 50) == []
    assert alarmed() == []


@pytest.mark.parametrize(
    ("reading", "kind"),
    [
        (replace(QUIET, is_finite=False), "not-finite"),
        (replace(QUIET, norm=LIMITS.norm[1] * 1.01), "norm"),
        (replace(QUIET, norm=LIMITS.norm[0] / 1.01), "norm"),
        (replace(QUIET, norm=math.inf), "norm"),
        (replace(QUIET, distance=1.2), "distance"),
        (replace(QUIET, entropy=MAX_ENTROPY), "entropy"),
    ],
)
def test_one_thought_that_is_out_of_bounds_is_found_where_it_is(reading: ThoughtStats, kind: str) -> None:
    found = alarmed(QUIET, QUIET, reading)
    assert found == [(kind, 2)]


def test_a_jump_of_entropy_is_between_two_thoughts_that_are_finite() -> None:
    sure, lost = replace(QUIET, entropy=0.0), replace(QUIET, entropy=MAX_ENTROPY)
    assert alarmed(sure, lost, lost, sure) == [("entropy", 1), ("entropy", 3)]
    assert alarmed(sure, replace(QUIET, is_finite=False), lost) == [("not-finite", 1)]
    assert alarmed(sure, replace(QUIET, entropy=None), lost) == []


def test_repetition_takes_as_many_steps_as_the_limit_says() -> None:
    alike = replace(QUIET, likeness=1.0)
    first = replace(QUIET, likeness=None)
    few = LIMITS.num_alike
    assert alarmed(first, *[alike] * (few - 1)) == []
    assert alarmed(first, *[alike] * few) == [("repetition", few)]
    assert alarmed(first, *[alike] * (3 * few)) == [("repetition", few)]
    assert alarmed(first, *[alike] * few, QUIET, *[alike] * few) == [("repetition", few), ("repetition", 2 * few + 1)]


@given(READINGS)
def test_every_alarm_is_about_a_figure_beyond_its_limit(readings: list[ThoughtStats]) -> None:
    for alarm in find_alarms(readings, max_entropy=MAX_ENTROPY):
        assert alarm.step is not None
        reading = readings[alarm.step]
        if alarm.kind == "not-finite":
            assert not reading.is_finite
            assert alarm.value == sum(not one.is_finite for one in readings)
            continue
        assert reading.is_finite
        if alarm.kind == "norm":
            assert alarm.value == reading.norm
            assert not LIMITS.norm[0] <= alarm.value <= LIMITS.norm[1]
        elif alarm.kind == "repetition":
            assert alarm.step >= LIMITS.num_alike - 1
            assert alarm.value >= alarm.limit
        else:
            assert alarm.value > alarm.limit


@given(READINGS)
def test_what_is_out_of_bounds_never_stays_silent(readings: list[ThoughtStats]) -> None:
    found = {(alarm.kind, alarm.step) for alarm in find_alarms(readings, max_entropy=MAX_ENTROPY)}
    for step, reading in enumerate(readings):
        if reading.is_finite:
            assert (("distance", step) in found) == (reading.distance > LIMITS.distance)
            assert (("norm", step) in found) == (not LIMITS.norm[0] <= reading.norm <= LIMITS.norm[1])
    assert any(kind == "not-finite" for kind, _ in found) == any(not reading.is_finite for reading in readings)


@given(READINGS, st.floats(1, 10))
def test_wider_limits_find_nothing_new(readings: list[ThoughtStats], factor: float) -> None:
    wider = AlarmThresholds(
        norm=(LIMITS.norm[0] / factor, LIMITS.norm[1] * factor),
        distance=LIMITS.distance * factor,
        entropy_jump=LIMITS.entropy_jump * factor,
        num_alike=LIMITS.num_alike + int(factor),
    )
    kinds = {kind for kind, _ in alarmed(*readings, limits=wider)}
    assert kinds <= {kind for kind, _ in alarmed(*readings)}


@given(READINGS)
def test_the_first_of_each_kind_is_kept(readings: list[ThoughtStats]) -> None:
    alarms = find_alarms(readings, max_entropy=MAX_ENTROPY)
    kept = first_of_each_kind(alarms)
    assert {alarm.kind for alarm in kept} == {alarm.kind for alarm in alarms}
    assert len(kept) == len({alarm.kind for alarm in kept})
    for alarm in kept:
        assert alarm == next(one for one in alarms if one.kind == alarm.kind)
    assert list(kept) == sorted(kept, key=alarms.index)


EFFECTS = st.lists(st.dictionaries(st.sampled_from("abc"), st.floats(0, 0.01)), max_size=8)


@given(EFFECTS)
def test_memory_without_effect_is_named(effects: list[dict[str, float]]) -> None:
    found = find_idle_memory(effects)
    assert [{alarm.source: alarm.value for alarm in one} for one in found] == [
        {source: effect for source, effect in one.items() if effect < LIMITS.effect} for one in effects
    ]


@given(EFFECTS)
def test_an_alarm_about_memory_has_no_other_evidence(effects: list[dict[str, float]]) -> None:
    working = {source for one in effects for source, effect in one.items() if effect >= LIMITS.effect}
    for alarm in (alarm for one in find_idle_memory(effects) for alarm in one if not alarm.note):
        assert alarm.source not in working
        assert not working or sum(alarm.source in one for one in effects) >= LIMITS.num_idle


NEARLY, LOUD = 3e-4, 15.2


@pytest.mark.parametrize(
    ("effects", "is_note"),
    [
        # One question about what the second of three experts knows: the others' memory is not needed.
        ([{"a": NEARLY, "b": LOUD, "c": 0.0}], {"a": True, "c": True}),
        # Each expert is asked in some question.
        ([{"a": NEARLY, "b": LOUD}, {"a": LOUD, "b": NEARLY}], {"a": True, "b": True}),
        # Nothing that the reader reads has any effect: the memory is broken, or not read at all.
        ([{"a": 0.0, "b": NEARLY}], {"a": False, "b": False}),
        ([{"a": NEARLY}] * 8, {"a": False}),
        # One agent's memory has never an effect: too few questions to tell, and enough of them.
        ([{"a": 0.0, "b": LOUD}] * 4, {"a": True}),
        ([{"a": 0.0, "b": LOUD}] * 5, {"a": False}),
        # It has in one of many.
        ([{"a": 0.0, "b": LOUD}] * 7 + [{"a": LOUD, "b": LOUD}], {"a": True}),
        ([{"a": LIMITS.effect}], {}),
    ],
)
def test_memory_that_is_not_needed_is_a_note(effects: list[dict[str, float]], is_note: dict[str, bool]) -> None:
    found = {alarm.source: bool(alarm.note) for one in find_idle_memory(effects) for alarm in one}
    assert found == is_note
