"""Kind number: the final number of an answer is found and read exactly."""

import time
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentmas_ray.tasks.grading.answer_text import last_box
from latentmas_ray.tasks.grading.number import extract_number, find_number, is_plain_number, number_text, parse_number
from latentmas_ray.tasks.grading.thinking import strip_thinking

BOXED = [
    (r"\boxed{18}", "18"),
    (r"\boxed{{18}}", "18"),
    (r"\\boxed{7}", "7"),
    (r"\(\boxed{42}\)", "42"),
    (r"\boxed{\text{1,000}}", "1000"),
    (r"\boxed{1{,}000}", "1000"),
    (r"\boxed{1\,000}", "1000"),
    (r"\boxed{\frac{3}{4}}", "0.75"),
    (r"\boxed{-\frac{1}{3}}", "-1/3"),
    (r"\boxed{1\frac{1}{2}}", "1.5"),
    (r"\boxed{\dfrac12}", "0.5"),
    (r"\boxed{\$18.00}", "18"),
    (r"\boxed{- 5}", "-5"),
    (r"\boxed{50\%}", "50"),
    (r"\boxed{90^\circ}", "90"),
    (r"\boxed{12\text{ cm}^2}", "12"),
    (r"\boxed{12 cm²}", "12"),
    (r"\boxed{x = 42}", "42"),
    (r"\boxed{3 \times 10^{5}}", "300000"),
    (r"\boxed{3} and so \boxed{4}", "4"),
    (r"\boxed{\boxed{4}}", "4"),
    (r"\boxed{3}, the form was \boxed{}", "3"),
    (r"\boxed{3} again: \boxed{18", "3"),
    (r"\boxed{5} although the answer is 6. #### 7", "5"),
    (r"\boxed{2\sqrt{3}}", r"2\sqrt3"),
    (r"\boxed{2^{10}}", "2^10"),
    (r"\boxed{(1, 2)}", "(1, 2)"),
    (r"\boxed{\text{eighteen}}", "eighteen"),
]
STATED = [
    ("#### 18", "18"),
    ("#### $1,234.50", "1234.5"),
    ("#### -5", "-5"),
    ("#### 2 + 2 = 4", "4"),
    ("#### 18 eggs\nAs 9 * 2 is right.", "18"),
    ("#### Step 3: add\n16 + 2 = 18", "18"),
    ("#### 2. Count\nThere are 18 eggs", "18"),
    ("the answer is 42.", "42"),
    ("The answer is 18. She had 3.", "18"),
    ("The answer is:\n\n**18**", "18"),
    ("**Answer: 1,234 dollars**", "1234"),
    ("**Answer:** -$5", "-5"),
    ("Answer: $-5", "-5"),
    ("The answer is \u22125.", "-5"),
    ("Final answer: 3/4 cup of 2", "0.75"),
    ("The answer to both questions is $x = 7$.", "7"),
    ("Answer: 1e-3", "0.001"),
    ("The answer is 9-4=5 apples", "5"),
    ("The answer is 3. No, the answer is 4, not 9.", "4"),
    ("I look for the answer. It costs 3.", "3"),
]
LAST = [
    ("She had 5.\nSo it is ¾ of it.", "0.75"),
    ("She had 5.\nSee note ¹ and ⁵, in m².", "5"),
    ("so she has 16 - 3 - 4 = 9 eggs", "9"),
    ("between 10-5", "5"),
    ("- 5 apples", "5"),
    ("it is 3 × 10⁵", "300000"),
    ("it costs €3.50.", "3.5"),
    ("US$18", "18"),
    ("Rs.50", "50"),
    ("it is 1 3/4 cups", "1.75"),
    ("it is .5", "0.5"),
    ("答案是18。", "18"),
    ("4 cm^2 of H2O", "4"),
    ("3 or 3/0", "3"),
    ("one is 2\n\nthat is all", "2"),
    ("<think>the answer is 5</think>\nThe answer is 6", "6"),
    ("5 is it</think> 6 eggs", "6"),
    ("4 eggs <think>or 5", "4"),
    ("<think>the answer is 5", None),
    ("B12 and H2O", None),
    ("9" * 1000, None),
    ("1e999999", None),
    ("", None),
]


@pytest.mark.parametrize(("answer", "number"), BOXED + STATED + LAST)
def test_the_final_number_is_found(answer: str, number: str | None) -> None:
    assert extract_number(answer) == number


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("18", 18),
        ("1,319", 1319),
        ("$5", 5),
        ("50%", 50),
        ("-1/2", Fraction(-1, 2)),
        ("12 apples", 12),
        ("2e3", 2000),
        ("x = -3", -3),
        ("about 3 m^2", 3),
        ("7 or 8", None),
        ("x + 1", None),
        ("x - 1", None),
        ("many", None),
        ("", None),
        ("1,2", None),
        ("10:30", None),
        ("1/0", None),
        (r"2\pi", None),
    ],
)
def test_a_text_that_is_one_number(text: str, value: object) -> None:
    assert parse_number(text) == value


@pytest.mark.parametrize(
    ("text", "plain"), [("-1,000.5", True), ("50%", True), ("1e5", True), ("12 km", False), ("B", False)]
)
def test_plain_numbers_have_no_unit(text: str, plain: bool) -> None:
    assert is_plain_number(text) is plain


FORMS = [
    "{}",
    "\\boxed{{{}}}",
    "\\[ \\boxed{{\\text{{{}}}}} \\]",
    "\\boxed{{\\$ {}}} and 3 checks",
    "2 + 2 is 4.\n#### {}",
    "The answer is {}.",
    "the final answer is **{}** dollars. I used 3 steps.",
    "Answer: ${}",
    "We had 7 of them; in the end {} remain.",
    "<think>It may be 12.</think>So it is {}%.",
]


@given(
    st.decimals(min_value=-(10**12), max_value=10**12, allow_nan=False, allow_infinity=False, places=4),
    st.sampled_from(FORMS),
    st.sampled_from(["f", ",f", "e"]),
)
def test_a_formatted_decimal_is_read_back(value: Decimal, form: str, style: str) -> None:
    assert find_number(form.format(format(value, style))) == Fraction(value)


@given(st.integers(-(10**9), 10**9), st.sampled_from(FORMS), st.sampled_from(["d", ",d"]))
def test_a_formatted_integer_is_read_back(value: int, form: str, style: str) -> None:
    assert extract_number(form.format(format(value, style))) == str(value)


@given(st.fractions(max_denominator=10**6).filter(lambda value: abs(value) < 10**9))
def test_a_fraction_is_read_back_in_every_form(value: Fraction) -> None:
    sign = "-" * (value < 0)
    assert parse_number(number_text(value)) == value
    assert find_number(f"it is {value}") == value
    assert find_number(rf"\boxed{{{sign}\frac{{{abs(value.numerator)}}}{{{value.denominator}}}}}") == value


@given(st.integers(0, 30), st.integers(0, 10**6))
def test_braces_nest_to_any_depth(depth: int, number: int) -> None:
    assert last_box(r"so {} \boxed{" + "{" * depth + str(number) + "}" * depth + "} }") == str(number)


@given(st.text(max_size=300) | st.text(alphabet="\\boxed{}#$-1,/.^ eE%=answeri:\n<think>", max_size=300))
def test_nothing_raises(answer: str) -> None:
    find_number(answer)
    strip_thinking(answer)


@pytest.mark.parametrize(
    "unit",
    ["\\boxed{", "\\boxed{}", "1", "1,111", "1/", " ", "-", "- ", "answer is ", "#", "<think>", "\\", "^{1", "1 1/"],
)
def test_hostile_texts_take_linear_time(unit: str) -> None:
    text = unit * 30_000
    start = time.process_time()
    find_number(text)
    parse_number(text)
    assert time.process_time() - start < 5  # milliseconds where it is linear, minutes where it is not


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("<think>a</think>b", "b"),
        ("a<think>b</think>c<THINK>d</THINK>e", "ace"),
        ("a</think>b", "b"),
        ("a<think>b", "a"),
        ("<think>a<think>b</think>c", "c"),
        ("<thinking>a</thinking> b", "b"),
    ],
)
def test_thinking_blocks_are_removed(text: str, rest: str) -> None:
    assert strip_thinking(text) == rest
