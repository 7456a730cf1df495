"""Sizes and durations: what is shown stays readable at every edge, what is parsed is exact."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentmas_ray.units import (
    format_accuracy,
    format_bytes,
    format_figure,
    format_fine_seconds,
    format_number,
    format_p_value,
    format_rate,
    format_seconds,
    format_speed_ratio,
    format_spread,
    parse_bytes,
)


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [
        ("0B", 0),
        ("1000B", 1000),
        ("1B", 1),
        ("4GB", 4 * 10**9),
        ("4 gb", 4 * 10**9),
        (" 512MiB ", 512 * 2**20),
        ("1.5KiB", 1536),
        ("2Ti", 2 * 2**40),
        ("0.1GB", 100_000_000),
        ("80g", 80 * 10**9),
        ("9007199254740993B", 2**53 + 1),
    ],
)
def test_sizes_are_parsed_exactly(text: str, num_bytes: int) -> None:
    assert parse_bytes(text) == num_bytes


@pytest.mark.parametrize(
    "text", ["", "GB", "-1GB", "4 apples", "1e9", "1,000", "1.GB", ".5GB", "4GBB", "4BB", "٤GB", "9" * 400]
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="it must be a size such as"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("80", "80GB or 80GiB"),
        (" 40 ", "40GB or 40GiB"),
        ("0.5", "0.5GB or 0.5GiB"),
        ("0", "0GB or 0GiB"),
        ("80000000000", "80000000000B"),
    ],
)
def test_a_size_without_a_unit_is_refused_with_units(text: str, named: str) -> None:
    with pytest.raises(ValueError, match=f"^a size needs its unit: {named}$"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("ratio", "shown"),
    [
        (0.92, "1.09 × slower"),
        (1.25, "1.25 × faster"),
        (1.0, "as fast"),
        (1.004, "as fast"),
        (0.996, "as fast"),
        (0.5, "2.00 × slower"),
        (56.85, "56.9 × faster"),
        (0.001, "1,000 × slower"),
        (0.0, "0 × as fast"),
    ],
)
def test_a_speed_is_faster_or_slower_by_a_factor_above_1(ratio: float, shown: str) -> None:
    assert format_speed_ratio(ratio) == shown


@given(st.floats(1e-6, 1e6))
def test_a_factor_is_never_below_1(ratio: float) -> None:
    shown = format_speed_ratio(ratio)
    if shown != "as fast":
        factor = float(shown.split()[0].replace(",", ""))
        assert factor >= 1
        assert max(ratio, 1 / ratio) == pytest.approx(factor, rel=0.01)
        assert shown.endswith("faster" if ratio > 1 else "slower")


@given(st.text(max_size=12))
def test_parsing_ends_in_a_number_or_a_value_error(text: str) -> None:
    with suppress(ValueError):
        assert parse_bytes(text) >= 0


@given(st.integers(min_value=0, max_value=2**60))
def test_a_number_of_bytes_is_itself(num_bytes: int) -> None:
    assert parse_bytes(f"{num_bytes}B") == num_bytes


@given(st.integers(min_value=0, max_value=999 * 10**12))
def test_what_is_shown_can_be_read_back_to_three_figures(num_bytes: int) -> None:
    shown = format_bytes(num_bytes)
    assert parse_bytes(shown) == pytest.approx(num_bytes, rel=0.005)
    assert len(shown.split()[0].replace(".", "")) <= 3 or shown.startswith("0.")


@pytest.mark.parametrize(
    ("num_bytes", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 KB"),
        (138_412_032, "138 MB"),
        (999_499, "999 KB"),
        (999_500, "1 MB"),
        (999_999_999, "1 GB"),
        (1_620_000_000, "1.62 GB"),
        (4_200 * 10**12, "4200 TB"),
    ],
)
def test_sizes_are_shown_with_three_figures(num_bytes: int, shown: str) -> None:
    assert format_bytes(num_bytes) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 ms"),
        (0.085, "85 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1.0 s"),
        (12.34, "12.3 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (245, "4 min 05 s"),
        (119.6, "2 min 00 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 00 min"),
        (7380, "2 h 03 min"),
        (100 * 3600, "100 h 00 min"),
    ],
)
def test_durations_never_show_a_full_smaller_unit(seconds: float, shown: str) -> None:
    assert format_seconds(seconds) == shown


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0 µs"), (8.5e-5, "85 µs"), (9.996e-4, "1 ms"), (0.01234, "12.3 ms"), (0.1234, "123 ms"), (2.5, "2.5 s")],
)
def test_times_are_told_down_to_microseconds(seconds: float, text: str) -> None:
    assert format_fine_seconds(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (40.0, "40"),
        (37.25, "37.2"),
        (12345.6, "12,346"),
        (0.003, "0.003"),
        (0.32, "0.32"),
        (1_000_000, "1,000,000"),
    ],
)
def test_format_number(value: float, text: str) -> None:
    assert format_number(value) == text


def test_shares_and_what_is_not_known() -> None:
    assert format_accuracy(None) == "not graded"
    assert format_accuracy(0.525, (0.491, 0.559)) == "52.5 % (49.1–55.9)"
    assert format_spread(0.525, 0.031) == "52.5 % ± 3.1"
    assert format_spread(0.525, None) == "52.5 %"
    assert [format_p_value(value) for value in (None, 0.0001, 0.0421)] == ["-", "< 0.001", "0.042"]


@pytest.mark.parametrize(("value", "text"), [(0.1234, "0.123"), (12.34, "12.3"), (1234.5, "1,234")])
def test_rates(value: float, text: str) -> None:
    assert format_rate(value) == text


@pytest.mark.parametrize(
    ("name", "text"), [("moved_bytes", "2 KB"), ("exposed_seconds", "33 min 20 s"), ("latent_steps", "2,000")]
)
def test_a_figure_has_the_unit_that_its_name_tells(name: str, text: str) -> None:
    assert format_figure(name, 2000.0) == text
