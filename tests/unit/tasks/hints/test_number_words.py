"""Numbers in words are read as one value each."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentmas_ray.tasks.hints.number_words import numbers_in_words

UNITS = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
eighteen nineteen
"""
TENS = "twenty thirty forty fifty sixty seventy eighty ninety"


def in_words(number: int) -> str:
    """As English writes it, independently of the reader that is tested."""
    if number < 20:
        return UNITS.split()[number]
    if number < 100:
        return TENS.split()[number // 10 - 2] + (f"-{UNITS.split()[number % 10]}" if number % 10 else "")
    for size, name in ((10**6, "million"), (1000, "thousand"), (100, "hundred")):
        if number >= size:
            rest = number % size
            joint = " and " if size == 100 or rest < 100 else " "
            return f"{in_words(number // size)} {name}" + (f"{joint}{in_words(rest)}" if rest else "")
    raise AssertionError


@given(st.integers(0, 999_999_999))
def test_every_number_in_words_is_read(number: int) -> None:
    assert list(numbers_in_words(f"There are {in_words(number)} of them.")) == [number]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Twenty one cups", [21]),
        ("twenty, one", [20, 1]),
        ("five and three", [5, 3]),
        ("a dozen eggs, two dozen eggs, half a dozen", [12, 24, 6]),
        ("3 thousand", [3000]),
        ("a hundred", [100]),
        ("twelve hundred", [1200]),
        ("minus seven", [-7]),
        ("one hundred five", [105]),
        ("two hundred thousand", [200_000]),
        ("I have 3 cats and a dog", []),
        ("someone often ate weights", []),
        ("thousand", []),
        ("", []),
    ],
)
def test_forms_of_numbers(text: str, found: list[int]) -> None:
    assert list(numbers_in_words(text)) == found
