"""Intervals and p-values, compared with known values, and properties that must hold."""

import math
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentmas_ray.stats import Cells, accuracy_interval, compare_paired, ids_by_verdict, mean_interval

RIGHT_OR_WRONG = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=60)
SHARES = st.sampled_from([0.0, 1 / 3, 0.5, 2 / 3, 1.0])
PAIRS_OF_SHARES = st.lists(st.tuples(SHARES, SHARES), min_size=1, max_size=60)


@pytest.mark.parametrize(
    ("num_right", "num_questions", "interval"),
    [  # the formula: (p + z²/2n ± z·√(p·(1-p)/n + z²/4n²)) / (1 + z²/n), z = 1.959964
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (900, 1000, (0.8798, 0.9171)),
        (40, 40, (0.9124, 1.0)),
        (0, 40, (0.0, 0.0876)),
        (1, 1, (0.2065, 1.0)),
    ],
)
def test_the_interval_of_one_runs_accuracy_is_wilsons(
    num_right: int, num_questions: int, interval: tuple[float, float]
) -> None:
    values = [True] * num_right + [False] * (num_questions - num_right)
    assert accuracy_interval(values) == pytest.approx(interval, abs=5e-5)


def test_all_right_in_all_seeds_uses_wilsons_interval_too() -> None:
    assert accuracy_interval([1.0] * 40) == accuracy_interval([True] * 40)


def test_the_interval_over_seeds_is_the_bootstraps_and_deterministic() -> None:
    values = [1.0] * 850 + [0.5] * 100 + [0.0] * 50
    low, high = accuracy_interval(values)
    # The normal approximation: the standard deviation of a value is √(0.875 - 0.9²) = 0.255.
    assert low == pytest.approx(0.9 - 1.96 * 0.255 / math.sqrt(1000), abs=0.003)
    assert high == pytest.approx(0.9 + 1.96 * 0.255 / math.sqrt(1000), abs=0.003)
    assert accuracy_interval(values) == (low, high)


@given(st.lists(SHARES, min_size=1, max_size=60))
def test_an_interval_contains_the_accuracy_and_does_not_depend_on_the_order(values: list[float]) -> None:
    low, high = accuracy_interval(values)
    assert 0 <= low <= high <= 1
    assert low - 1e-9 <= sum(values) / len(values) <= high + 1e-9
    assert accuracy_interval(values[::-1]) == (low, high)


def test_a_mean_over_seeds() -> None:
    found = mean_interval([0.50, 0.60, 0.70])
    assert found.mean == pytest.approx(0.6)
    assert found.half_width == pytest.approx(4.30265 * 0.1 / math.sqrt(3), rel=1e-5)
    assert found.num_values == 3


@pytest.mark.parametrize(
    ("count", "quantile"), [(2, 12.7062), (3, 4.30265), (5, 2.77645), (10, 2.26216), (31, 2.04227)]
)
def test_the_quantiles_of_a_mean_are_those_of_the_printed_tables(count: int, quantile: float) -> None:
    values = [float(index) for index in range(count)]
    spread = math.sqrt(count * (count + 1) / 12)  # the sample's standard deviation of 0, 1, …, n - 1
    assert mean_interval(values).half_width == pytest.approx(quantile * spread / math.sqrt(count), rel=1e-5)


def test_one_seed_has_no_half_width_and_equal_seeds_have_zero() -> None:
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
    base, other = [1] * only_base + [0] * only_other + [1, 0], [0] * only_base + [1] * only_other + [1, 0]
    assert compare_paired(base, other).mcnemar_p_value == pytest.approx(p_value)
    assert compare_paired(other, base).mcnemar_p_value == pytest.approx(p_value)


def test_mcnemars_test_on_many_questions() -> None:
    # z = (400 - 300 - 1) / √700 = 3.742, beyond which a normal distribution has 1.83e-4 on both sides.
    found = compare_paired([1] * 300 + [0] * 400, [0] * 300 + [1] * 400)
    assert found.mcnemar_p_value == pytest.approx(1.83e-4, rel=0.05)
    tiny = compare_paired([0] * 3000, [1] * 3000).mcnemar_p_value
    assert tiny is not None
    assert 0 <= tiny < 1e-300


def test_a_real_difference() -> None:
    found = compare_paired([0] * 40 + [1] * 60, [1] * 30 + [0] * 10 + [1] * 55 + [0] * 5)
    assert found.cells == Cells(both=55, only_base=5, only_other=30, neither=10)
    assert found.difference == pytest.approx(0.25)
    # The standard error of a mean of +1, 0 and -1: √((0.35 - 0.25²) / 100).
    assert found.interval == pytest.approx((0.25 - 1.96 * 0.0536, 0.25 + 1.96 * 0.0536), abs=0.012)
    assert found.p_value < 0.001
    assert found.mcnemar_p_value == pytest.approx(2.23e-5, rel=0.01)


def test_a_paired_test_uses_more_than_the_two_accuracies() -> None:
    """With equal accuracies, a difference is significant if mostly the same questions are right."""
    same = compare_paired([1] * 50 + [0] * 50, [1] * 57 + [0] * 43)
    other = compare_paired([1] * 50 + [0] * 50, [0] * 43 + [1] * 57)
    assert same.difference == pytest.approx(other.difference)
    assert same.p_value < 0.05 < other.p_value
    assert same.interval[0] > 0 > other.interval[0]


def test_seeds_are_averaged_before_questions_are_resampled() -> None:
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
def test_swapping_the_runs_changes_the_sign(pairs: list[tuple[float, float]]) -> None:
    base, other = [a for a, _ in pairs], [b for _, b in pairs]
    there, back = compare_paired(base, other), compare_paired(other, base)
    assert there.difference == pytest.approx(-back.difference)
    # Another order gives other samples, so bounds agree only approximately.
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
def test_runs_with_different_numbers_of_questions_are_refused(base: list[float], other: list[float]) -> None:
    with pytest.raises(ValueError, match="the same questions"):
        compare_paired(base, other)


def test_questions_by_verdict_are_those_of_both_runs_in_their_order() -> None:
    base = {"a": 1.0, "b": 0.0, "c": 0.5, "d": 2 / 3, "only here": 1.0}
    other = {"d": 1.0, "c": 1.0, "b": 0.0, "a": 0.0, "only there": 1.0}
    assert ids_by_verdict(base, other) == {
        (True, True): ("d",),
        (True, False): ("a",),
        (False, True): ("c",),
        (False, False): ("b",),
    }
