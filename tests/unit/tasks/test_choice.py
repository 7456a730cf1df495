"""The letter that an answer chooses, with and without known options."""

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentmas_ray.tasks import Question
from latentmas_ray.tasks.grading.choice import choice_letter, extract_choice, options_of

OPTIONS = {"A": "Aspirin", "B": "Aspirin and heparin", "C": "C. difficile infection", "D": "A decrease in pH"}

BY_LETTER = [
    (r"\boxed{A}", "A"),
    (r"\boxed{\text{A}}", "A"),
    (r"\boxed{\textbf{(B)}}", "B"),
    (r"Final Answer: $\boxed{\text{Option B}}$", "B"),
    ("\\boxed{B}\n\nA", "B"),
    (r"\boxed{A, C}", None),
    ("Answer: (B)", "B"),
    ("Answer:B", "B"),
    ("**Answer:** B", "B"),
    ("Answer:\n\nB", "B"),
    ('answer is "B"', "B"),
    ("The answer is: \\(B\\)", "B"),
    ("correct answer: b.", "B"),
    ("the answer is d", "D"),
    ("#### c", "C"),
    ("The answer is choice B", "B"),
    ("The answer is B, I think", "B"),
    ("The answer is A because the others are not", "A"),
    ("The answer is a planet.", None),
    ("The answer is either A or B", None),
    ("The answer is not A", None),
    ("Not B", None),
    ("The answer cannot be B.", None),
    ("The answer isn't: B", None),
    ("Option B is wrong.", None),
    ("B is very unlikely", None),
    ("A is wrong. So B", "B"),
    ("The answer is e.g. unclear", None),
    ("Answer: B\n\nThe answer is A bit unclear", "B"),
    ("A is wrong. B is correct.", "B"),
    ("Option C is the best answer, not D", "C"),
    ("I choose (d)", "D"),
    ("So I would go with C.", "C"),
    ("**C**", "C"),
    ("(c)", "C"),
    ("a", "A"),
    ("some words\nD", "D"),
    ("B. text\nas the text says", "B"),
    ("It must be A.", "A"),
    ("A. no\nB. no\nC. yes\nD. no", None),
    ("A patient is sick. I think so.", None),
    ("<think>Answer: A</think>", None),
    ("<think>Answer: A</think>\n\n**D**", "D"),
    ("", None),
]
BY_TEXT = [
    ("Answer: A decrease in pH", "D"),
    ("Answer: C. difficile infection", "C"),
    ("Answer: B) Aspirin and heparin", "B"),
    ("The correct option is **D. A decrease in pH**", "D"),
    ("I think aspirin and heparin is best", "B"),
    ("aspirin", "A"),
    (r"\boxed{\text{A decrease in pH}}", "D"),
    ("Select A) Aspirin", "A"),
    ("The answer is E.", None),
    ("It lacks vitamin B", None),
    ("Hepatitis B is most likely", None),
    ("Group A streptococcus; so B is most likely", "B"),
    ("I", None),
]


@pytest.mark.parametrize(("answer", "letter"), BY_LETTER + BY_TEXT)
def test_the_letter_is_found_among_known_options(answer: str, letter: str | None) -> None:
    assert extract_choice(answer, OPTIONS) == letter


@pytest.mark.parametrize(("answer", "letter"), BY_LETTER)
def test_the_letter_is_found_without_options(answer: str, letter: str | None) -> None:
    assert extract_choice(answer, {}) == letter


def test_short_options_are_recognised_only_alone() -> None:
    options = {"A": "16", "B": "4", "C": "8"}
    assert extract_choice("The answer is 8.", options) == "C"
    assert extract_choice("8", options) == "C"
    assert extract_choice("It has 8 legs and 4 wings.", options) is None


@pytest.mark.parametrize("text", ["b", "B", "(B)", "B.", "B. Red", "Red", "option B"])
def test_a_gold_may_be_written_in_several_ways(text: str) -> None:
    assert choice_letter(text, {"A": "Blue", "B": "Red"}) == "B"


@pytest.mark.parametrize("text", ["purple", "E", "", "A or B"])
def test_a_gold_that_is_not_an_option(text: str) -> None:
    assert choice_letter(text, {"A": "Blue", "B": "Red"}) is None


@pytest.mark.parametrize(
    ("question", "record", "letters"),
    [
        ("Which?\nA. x\nB. y\nC. z", {}, "ABC"),
        ("Which?\na: x\nb: y\nc: z\nd: u\ne: v\nChoose.", {}, "ABCDE"),
        ("Which? (A) x (B) y (C) z", {}, "ABC"),
        ("Which? A) x B) y", {}, "AB"),
        ("Given:\nA. p\nB. q\nC. r\nWhich?\nA. x\nB. y", {}, "AB"),
        ("Which?\n1. x\n2. y", {}, ""),
        ("", {}, ""),
        ("Which?", {"choices": ["x", "y", "z"]}, "ABC"),
        ("Which?", {"options": {"a": "x", "b": "y"}}, "AB"),
        ("Which?\nA. x\nB. y", {"choices": 3}, "AB"),
    ],
)
def test_options_of_a_question(question: str, record: dict[str, Any], letters: str) -> None:
    found = options_of(Question(id="1", question=question, kind="choice", gold=None, record=record))
    assert "".join(found) == letters


def test_labels_inside_choices_are_not_part_of_their_text() -> None:
    record = {"choices": ["A. red", "B. blue"]}
    assert options_of(Question(id="1", question="", kind="choice", gold=None, record=record)) == {
        "A": "red",
        "B": "blue",
    }


def test_options_that_lack_the_gold_are_ignored() -> None:
    assert options_of(Question(id="1", question="A. x\nB. y\n[C] z", kind="choice", gold="C", record={})) == {}


FORMS = [
    "\\boxed{{{}}}",
    "\\boxed{{\\text{{({})}}}}",
    "Answer: ({})",
    "**{}**",
    "A long story. The answer is {}",
    "The correct answer is: {}. It fits.",
    "{}. It fits.",
    "A story that I tell\n{}",
    "#### {}",
    "<think>maybe \\boxed{{A}}</think>**Answer: {})**",
]


@given(st.sampled_from("ABCDEabcde"), st.sampled_from(FORMS), st.integers(5, 8))
def test_every_letter_is_read_in_every_form(letter: str, form: str, num_options: int) -> None:
    options = {chr(ord("A") + index): f"thing number {index}" for index in range(num_options)}
    assert extract_choice(form.format(letter), options) == letter.upper()
    assert extract_choice(form.format(letter), {}) == letter.upper()


@given(st.text(max_size=300) | st.text(alphabet="ABI()*.:answer is\\boxed{}\n", max_size=300))
def test_nothing_raises(text: str) -> None:
    extract_choice(text, OPTIONS)
    options_of(Question(id="1", question=text, kind="choice", gold=None, record={"choices": text}))


@pytest.mark.parametrize("unit", ["\\boxed{", "A. ", "(A) ", "**A**", "answer ", "option ", "B is ", " ", "*", "\n"])
def test_hostile_texts_take_linear_time(unit: str) -> None:
    text = unit * 30_000
    start = time.process_time()
    extract_choice(text, OPTIONS)
    options_of(Question(id="1", question=text, kind="choice", gold=None, record={}))
    assert time.process_time() - start < 5  # milliseconds where it is linear, minutes where it is not
