"""Digits in groups: read where they can mean one number only, else no number, never another one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentmas_ray.tasks import Question, grade
from latentmas_ray.tasks.grading.answer_text import last_box
from latentmas_ray.tasks.grading.number import extract_number, parse_number

STATED = [
    ("The answer is 1 234 567.", "1234567"),
    ("The answer is 12 500 euros.", "12500"),
    ("#### 1 234", "1234"),
    ("\\boxed{1 234 567}", "1234567"),
    ("\\boxed{12 500}", "12500"),
    ("\\boxed{1\\ 234\\ 567}", "1234567"),
    ("\\boxed{1~234~567}", "1234567"),
    ("\\boxed{1{ }234}", "1234"),
    ("\\boxed{1{\\,}234{\\,}567}", "1234567"),
    ("\\boxed{1\\thinspace 234}", "1234"),
    ("The answer is 1\u202f234\u202f567.", "1234567"),
    ("The answer is 1\u2007234.", "1234"),
    ("The answer is 1'234'567 francs.", "1234567"),
    ("The answer is 1’234.", "1234"),
    ("The answer is 1_000_000.", "1000000"),
    ("The answer is 1.234.567.", "1234567"),
    ("The answer is 1.234,50 €.", "1234.5"),
    ("Antwort: 1 234,50 €", "1234.5"),
    ("\\boxed{1\\,234{,}5}", "1234.5"),
    ("The answer is 1 234 567.5 m.", "1234567.5"),
    ("The answer is 1,50,000 rupees.", "150000"),
    ("\\boxed{12,34,567}", "1234567"),
    ("₹1,00,00,000", "10000000"),
    ("\\boxed{1{,}50{,}000}", "150000"),
    ("答案是１２３。", "123"),
    ("答案是１，２３４。", "1234"),
    ("答案是18，而不是20。", "18"),
    ("Die Antwort ist 18, denn 3 mal 6 ist 18, nicht 20.", "18"),
    ("La réponse est 18 car 3 x 6.", "18"),
    ("La respuesta es 18, no 20.", "18"),
    ("정답은 18입니다. 20이 아닙니다.", "18"),
    ("Ответ: 18, а не 20", "18"),
    ("In all 1 234 567 people live there", "1234567"),
    ("So the total is 12 500.", "12500"),
    # What may be several numbers, or none.
    ("She needs 2 300 g packs", None),
    ("Take the numbers 100 200 300 for it", None),
    ("The answer is 3 100-dollar bills.", None),
    ("The answer is 12,5.", None),
    ("The answer is 1,2345.", None),
    ("The answer is 9. No, the answer is 12,34,56.", None),
    ("She has 1,23 apples", None),
    ("The answer is 1 2 3", None),
    ("Add 5 100 20", "20"),
    ("it is 1 3/4 cups", "1.75"),
    ("The answer is 1,234,567", "1234567"),
    ("$\\fbox{18}$", "18"),
    ("\\fbox{9} and \\fbox{$18$}", "18"),
    ("\\framebox{18}", "18"),
    ("\\fbox{\\boxed{18}} 3", "18"),
    ("\\boxed{x = \\boxed{18}} 3", "18"),
    ("\\boxed 18$ in 3 steps", "18"),
    ("\\bbox[5px]{18} 3", "18"),
    ("\\boxed{ }, so 18", "18"),
]


@pytest.mark.parametrize(("answer", "number"), STATED)
def test_groups_of_digits(answer: str, number: str | None) -> None:
    assert extract_number(answer) == number


@given(st.integers(10**6, 10**12), st.sampled_from(" \u00a0\u2009\u202f\u2007'’_,."))
def test_every_number_is_read_in_groups_of_three(number: int, gap: str) -> None:
    text = f"{number:,}".replace(",", gap)
    assert parse_number(text) == number
    assert extract_number(f"The answer is {text}.") == str(number)
    assert extract_number(f"\\boxed{{{text}}}") == str(number)


@given(st.integers(10**5, 10**12))
def test_every_number_is_read_in_groups_of_india(number: int) -> None:
    head, tail = divmod(number, 1000)
    digits = str(head)
    pairs = [digits[max(0, end - 2) : end] for end in range(len(digits), 0, -2)][::-1]
    assert extract_number(f"Answer: {','.join(pairs)},{tail:03} rupees") == str(number)


def test_boxes_of_other_kinds() -> None:
    assert last_box("\\fbox{\\text{B}}") == "B"
    assert last_box("\\boxed B.") == "B"
    assert last_box("the \\boxed command") is None


@pytest.mark.parametrize(
    ("kind", "gold", "answer", "correct"),
    [
        ("text", "3, 5", "x is \\boxed{3} and y is \\boxed{5}.", True),
        ("number", "3 and 5", "First \\boxed{3}, then \\boxed{5}", True),
        ("number", "(3; 5)", "\\boxed{3.0}\n\\boxed{5}", True),
        ("text", "3, 5", "\\boxed{3,5}", True),
        ("text", "3, 5", "\\boxed{3} and \\boxed{5}, that is \\boxed{3, 5}", True),
        ("math", "2, \\sqrt{3}", "$\\boxed{2}$ and $\\boxed{\\sqrt{3}}$", True),
        ("text", "7 cm; 1,000 g", "\\boxed{7\\text{ cm}} and \\boxed{1000 g}", True),
        ("text", "3, 5", "x is \\boxed{5} and y is \\boxed{3}.", False),
        ("text", "3, 5", "\\boxed{5}", False),
        ("text", "3, 5", "\\boxed{3}" + " is the first part." * 9 + " \\boxed{5}", False),  # far from each other
        ("text", "[1, 2)", "\\boxed{(1, 2]}", False),
        ("number", "5", "x is \\boxed{3} and y is \\boxed{5}.", True),  # of one part, the last
        ("text", "1,000", "\\boxed{1} \\boxed{000}", False),
    ],
)
def test_boxes_of_a_gold_in_parts(kind: str, gold: str, answer: str, correct: bool) -> None:
    question = Question(id="1", question="?", kind=kind, gold=gold, record={})  # type: ignore[arg-type]
    assert grade(question, answer).correct is correct
