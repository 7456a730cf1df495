"""Intervals and p-values, beside values that are known and properties that must hold."""

import math
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentmas_ray.statistics import (
    Cells,
    bootstrap_interval,
    compare_paired,
    mcnemar,
    mean_interval,
    student_quantile,
)

RIGHT_OR_WRONG = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=60)
SHARES = st.sampled_from([0.0, 1 / 3, 0.5, 2 / 3, 1.0])
PAIRS_OF_SHARES = st.lists(st.tuples(SHARES, SHARES), min_size=1, max_size=60)


def test_the_interval_of_an_accuracy_is_the_bootstraps_and_always_the_same() -> None:
    values = [1.0] * 900 + [0.0] * 100
    low, high = bootstrap_interval(values)
    # The normal approximation: 0.9 ± 1.96 · √(0.9 · 0.1 / 1000).
    assert low == pytest.approx(0.8814, abs=0.003)
    assert high == pytest.approx(0.9186, abs=0.003)
    assert bootstrap_interval(values) == (low, high)
    assert bootstrap_interval([1.0] * 10) == (1.0, 1.0)
    assert bootstrap_interval([True, False]) == (0.0, 1.0)


@given(st.lists(SHARES, min_size=1, max_size=60))
def test_an_interval_lies_within_what_was_seen_and_does_not_depend_on_the_order(values: list[float]) -> None:
    low, high = bootstrap_interval(values)
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9
    assert bootstrap_interval(values[::-1]) == (low, high)


@pytest.mark.parametrize(
    ("degrees", "quantile"),
    [
        (1, 12.7062),
        (2, 4.30265),
        (3, 3.18245),
        (4, 2.77645),
        (5, 2.57058),
        (9, 2.26216),
        (10, 2.22814),
        (30, 2.04227),
        (99, 1.98422),
        (1000, 1.96234),
    ],
)
def test_quantiles_are_those_of_the_printed_tables(degrees: int, quantile: float) -> None:
    assert student_quantile(0.975, degrees) == pytest.approx(quantile, rel=5e-6)


def test_other_quantiles() -> None:
    assert student_quantile(0.995, 4) == pytest.approx(4.60409, rel=1e-5)
    assert student_quantile(0.75, 1) == pytest.approx(1.0)  # of Cauchy's distribution
    assert student_quantile(0.5, 7) == pytest.approx(0.0, abs=1e-12)


def test_a_mean_over_seeds() -> None:
    found = mean_interval([0.50, 0.60, 0.70])
    assert found.mean == pytest.approx(0.6)
    assert found.half_width == pytest.approx(4.30265 * 0.1 / math.sqrt(3), rel=1e-5)
    assert found.num_values == 3


def test_one_seed_says_nothing_of_other_seeds_and_equal_ones_say_that_they_are_equal() -> None:
    assert mean_interval([0.5]).half_width is None
    assert mean_interval([0.5, 0.5]).half_width == 0.0


@pytest.mark.parametrize(
    ("only_base", "only_other", "p_value"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (5, 5, 1.0),
        (0, 5, 0.0625),
        (0, 6, 0.03125),
        (1, 9, 22 / 1024),
        (10, 2, 158 / 4096),
    ],
)
def test_mcnemars_test_is_exact(only_base: int, only_other: int, p_value: float) -> None:
    assert mcnemar(only_base, only_other) == pytest.approx(p_value)
    assert mcnemar(only_other, only_base) == pytest.approx(p_value)


def test_mcnemars_test_on_many_questions() -> None:
    # z = (400 - 300 - 1) / √700 = 3.742, beyond which a normal distribution has 1.83e-4 on both sides.
    assert mcnemar(300, 400) == pytest.approx(1.83e-4, rel=0.05)
    assert 0 <= mcnemar(0, 3000) < 1e-300


def test_a_difference_that_is_there() -> None:
    found = compare_paired([0] * 40 + [1] * 60, [1] * 30 + [0] * 10 + [1] * 55 + [0] * 5)
    assert found.cells == Cells(both=55, only_base=5, only_other=30, neither=10)
    assert found.difference == pytest.approx(0.25)
    # The standard error of a mean of +1, 0 and -1: √((0.35 - 0.25²) / 100).
    assert found.interval == pytest.approx((0.25 - 1.96 * 0.0536, 0.25 + 1.96 * 0.0536), abs=0.012)
    assert found.p_value < 0.001
    assert found.mcnemar_p_value == pytest.approx(mcnemar(5, 30))


def test_pairs_know_more_than_two_accuracies() -> None:
    """The same accuracies: where the same questions are right, a small difference is one."""
    same = compare_paired([1] * 50 + [0] * 50, [1] * 57 + [0] * 43)
    other = compare_paired([1] * 50 + [0] * 50, [0] * 43 + [1] * 57)
    assert same.difference == pytest.approx(other.difference)
    assert same.p_value < 0.05 < other.p_value
    assert same.interval[0] > 0 > other.interval[0]


def test_seeds_are_averaged_before_questions_are_drawn() -> None:
    found = compare_paired([0.5, 1.0], [1.0, 0.5])
    assert found.cells == Cells(both=1.0, only_base=0.5, only_other=0.5, neither=0.0)
    assert found.mcnemar_p_value is None
    assert found.difference == 0
    assert found.p_value == 1.0


@given(RIGHT_OR_WRONG)
def test_cells_add_up_to_the_questions_and_to_the_difference(pairs: list[tuple[int, int]]) -> None:
    found = compare_paired([a for a, _ in pairs], [b for _, b in pairs])
    counted = [sum(pair == cell for pair in pairs) for cell in product((0, 1), repeat=2)]
    cells = found.cells
    assert [cells.neither, cells.only_other, cells.only_base, cells.both] == counted
    assert found.difference == pytest.approx((cells.only_other - cells.only_base) / len(pairs))
    assert found.mcnemar_p_value is not None


@given(PAIRS_OF_SHARES)
def test_the_other_way_round_is_the_same_with_another_sign(pairs: list[tuple[float, float]]) -> None:
    base, other = [a for a, _ in pairs], [b for _, b in pairs]
    there, back = compare_paired(base, other), compare_paired(other, base)
    assert there.difference == pytest.approx(-back.difference)
    # Samples are drawn anew for the other order, so bounds agree as far as samples tell them.
    assert there.interval[0] == pytest.approx(-back.interval[1], abs=0.08)
    assert there.p_value == pytest.approx(back.p_value, abs=0.05)
    assert there.cells.only_base == pytest.approx(back.cells.only_other)


@given(PAIRS_OF_SHARES)
def test_a_comparison_is_sane_and_repeatable(pairs: list[tuple[float, float]]) -> None:
    base, other = [a for a, _ in pairs], [b for _, b in pairs]
    found = compare_paired(base, other)
    assert found == compare_paired(base, other)
    low, high = found.interval
    assert -1 <= low <= high <= 1
    assert 0 < found.p_value <= 1
    cells = found.cells
    assert cells.both + cells.only_base + cells.only_other + cells.neither == pytest.approx(len(pairs))


@given(st.lists(SHARES, min_size=1, max_size=40))
def test_a_run_does_not_differ_from_itself(values: list[float]) -> None:
    found = compare_paired(values, values)
    assert (found.difference, found.interval, found.p_value) == (0.0, (0.0, 0.0), 1.0)


@pytest.mark.parametrize(("base", "other"), [([], []), ([1.0], [1.0, 0.0])])
def test_runs_on_other_questions_are_not_compared(base: list[float], other: list[float]) -> None:
    with pytest.raises(ValueError, match="the same questions"):
        compare_paired(base, other)
