"""A hint leaks if it contains the gold, however that is written."""

from typing import Any

import pytest

from latentmas_ray.tasks.hints.leaks import has_leak
from latentmas_ray.tasks.question import AnswerKind, Question


def question(kind: AnswerKind, gold: str | None, **record: Any) -> Question:
    return Question(id="a", question=record.get("question", "?"), kind=kind, gold=gold, record=record)


def leaks(kind: AnswerKind, gold: str | None, hint: str, **record: Any) -> bool:
    return has_leak(question(kind, gold, **record), hint)


@pytest.mark.parametrize(
    "hint",
    [
        "It is 21.",
        "The answer is 21.0",
        "twenty-one",
        "Think of Twenty One",
        "42/2 is what you want",
        "7*3=21",
        "\\boxed{21}",
        "$21",
        "21%",
        "２１",
        "one of 12,21,30",
        "from 20 to 21",
        "sums: 2 021 or 5 21 3",
        "x = \\frac{42}{2}",
    ],
)
def test_a_number_is_found_in_every_form(hint: str) -> None:
    assert leaks("number", "21", hint)


@pytest.mark.parametrize(
    "hint",
    [
        "",
        "  ",
        "Add the two numbers.",
        "210 or 121",
        "twenty, one",
        "2.1",
        "-21",
        "Start with 20, add 1.",
        "B21",
        "2 1",
    ],
)
def test_another_number_is_no_leak(hint: str) -> None:
    assert not leaks("number", "21", hint)


@pytest.mark.parametrize(
    ("gold", "hint"),
    [
        ("1,000", "a thousand"),
        ("1000", "1 000"),
        ("0.5", "\\frac{1}{2}"),
        ("-7", "minus seven"),
        ("$18.00", "18 dollars"),
        ("12", "a dozen"),
        ("72", "six dozen"),
        ("1250", "twelve hundred and fifty"),
    ],
)
def test_golds_are_compared_by_value(gold: str, hint: str) -> None:
    assert leaks("number", gold, hint)


def test_a_coincidence_counts_too() -> None:
    assert leaks("number", "5", "Start with 5, add 3, take 3.")


@pytest.mark.parametrize(
    ("hint", "leak"),
    [
        ("(B)", True),
        ("The answer is B.", True),
        ("It must be Tom.", True),
        ("Think of tom, who has most.", True),
        ("Compare Zoe with Tom.", False),
        ("(A)", False),
        ("Tomorrow is another day.", False),
        ("Find both counts, then take the larger.", False),
    ],
)
def test_choices(hint: str, leak: bool) -> None:
    text = "Who has more keys: (A) Zoe or (B) Tom?"
    assert leaks("choice", "B", hint, question=text, choices=["Zoe", "Tom"]) is leak


@pytest.mark.parametrize(
    ("gold", "hint", "leak"),
    [
        ("Paris", "The capital is paris.", True),
        ("Paris", "comparison", False),
        ("the Nile", "Follow THE  NILE!", True),
        ("3, 5", "First 5, then three.", True),
        ("3, 5", "Only 5.", False),
        ("東京", "答えは東京です", True),
        ("C++", "write it in c++ today", True),
        ("?", "Why?", False),
        ("12", "a dozen", True),
    ],
)
def test_texts(gold: str, hint: str, leak: bool) -> None:
    assert leaks("text", gold, hint) is leak


@pytest.mark.parametrize(
    ("gold", "hint", "leak"),
    [
        ("\\frac{1}{2}", "it is one half, 0.5", True),
        ("x^2+1", "The polynomial $x^{2} + 1$ works.", True),
        ("\\boxed{7}", "seven", True),
        ("x^2", "x^2y", False),
        ("\\sqrt{2}", "Use $\\sqrt{2}$.", True),
    ],
)
def test_latex(gold: str, hint: str, leak: bool) -> None:
    assert leaks("math", gold, hint) is leak


def test_code_leaks_as_a_program_that_defines_what_is_tested() -> None:
    record = {"prompt": "def add(a, b):\n", "test": "assert add(1, 2) == 3", "entry_point": "add"}
    assert leaks("code", None, "```python\ndef add(a, b):\n    return a + b\n```", **record)
    assert not leaks("code", None, "```python\nimport math\n```", **record)
    assert not leaks("code", None, "Use the operator for sums.", **record)
    listed = {"prompt": "Add two numbers.", "test": "assert plus(1, 2) == 3", "test_list": ["assert plus(1, 2) == 3"]}
    assert leaks("code", None, "```python\ndef plus(a, b):\n    return a + b\n```", **listed)


def test_without_a_gold_nothing_leaks() -> None:
    assert not leaks("number", None, "21")
    assert not leaks("text", None, "anything")
