"""All usual forms of an answer are read the same way, and a wrong answer is wrong in every form."""

from string import ascii_uppercase

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from latentmas_ray.tasks import AnswerKind, Question, grade


def make(kind: AnswerKind, gold: str, **record: object) -> Question:
    return Question(id="1", question="?", kind=kind, gold=gold, record=record)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("18", r"\boxed{18}"),
        ("18", r"\boxed{{18}}"),
        ("18", r"\boxed{\text{\textbf{18}}}"),
        ("18", r"\boxed{\boxed{18}}"),
        ("18", r"First \boxed{3}, so \boxed{18}"),
        ("18", r"$$\boxed{ 18.00 }$$"),
        ("18", "18.00"),
        ("18.00", "18"),
        ("18", r"\boxed{x = 18}"),
        ("18", r"\boxed{18\text{ dollars}}"),
        ("18", r"\boxed{\$18}"),
        ("18", "18 cm^2"),
        ("18", r"\boxed{18^\circ}"),
        ("1234567", "1,234,567"),
        ("1234567", r"\boxed{1{,}234{,}567}"),
        ("1,234,567", "The answer is 1234567."),
        ("0.75", r"\boxed{\frac{3}{4}}"),
        ("3/4", r"\boxed{\dfrac34}"),
        ("0.75", "3/4"),
        ("1.5", "1 1/2"),
        ("1.5", "1½"),
        ("0.75", r"\boxed{¾}"),
        ("1.5", r"\boxed{1\frac{1}{2}}"),
        ("50", "50%"),
        ("50%", r"\boxed{50\%}"),
        ("50%", "50 percent"),
        ("-7", "−7"),
        ("300000", r"\boxed{3 \times 10^5}"),
        ("025", "25"),  # AIME writes three digits
        ("25", r"\boxed{025}"),
        ("0", r"\boxed{000}"),
        ("18", "We get 20 - 2, and that makes 18"),
        ("18", "<think>It is 17. \\boxed{17}</think>It is 18."),
        ("18", "17 may be it.</think>\n\\boxed{18}"),
    ],
)
def test_numbers(gold: str, answer: str) -> None:
    assert grade(make("number", gold), answer).correct is True


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("0.5", "50%"),  # a percentage is compared as it is written
        ("50", "0.5"),
        ("18", "<think>\\boxed{18}</think>"),
        ("18", "<think>\\boxed{18}"),
        ("1000", "1"),
        ("1", "1,000"),
        ("18", r"\boxed{18^2}"),
        ("18", r"\boxed{\sqrt{18}}"),
        ("18", r"\boxed{17} and not 18"),
    ],
)
def test_other_numbers(gold: str, answer: str) -> None:
    assert grade(make("number", gold), answer).correct is False


NUMBER_FORMS = (
    r"\boxed{{{}}}",
    "The answer is {}.",
    "#### {}",
    r"So it costs \boxed{{\${}}}.",
    "<think>It could be 99999.</think>**Answer:** {} apples",
    "We add 3 and 4 and get {}",
)


@given(st.integers(-(10**6), 10**6), st.integers(1, 10**6), st.sampled_from(NUMBER_FORMS))
def test_a_number_is_right_and_every_other_one_is_wrong(gold: int, error: int, form: str) -> None:
    assert grade(make("number", str(gold)), form.format(f"{gold:,}")).correct is True
    assert grade(make("number", str(gold)), form.format(f"{gold + error:,}")).correct is False
    assert grade(make("number", str(gold)), form.format(f"{gold}.5")).correct is False


CHOICE_FORMS = (
    r"\boxed{{{}}}",
    r"\boxed{{\text{{{}}}}}",
    r"\boxed{{\textbf{{({})}}}}",
    "Answer: ({})",
    "Answer: {}",
    "**Answer:** {}.",
    "The correct answer is {}.",
    "The answer is **({})**",
    "I choose option {}.",
    "{} is correct.",
    "After all of this:\n\n({})",
    "<think>Answer: (A)</think>\nFinal answer: {}",
)
TEXTS = ("an oak", "a granite rock", "the river", "seven clouds", "some moss")


@given(st.integers(3, 5), st.data(), st.sampled_from(CHOICE_FORMS))
def test_a_letter_is_right_and_every_other_one_is_wrong(num_options: int, data: st.DataObject, form: str) -> None:
    letters = ascii_uppercase[:num_options]
    gold, other = data.draw(st.sampled_from(letters)), data.draw(st.sampled_from(letters))
    assume(gold != other)
    question = make("choice", data.draw(st.sampled_from([gold, gold.lower()])), choices=list(TEXTS[:num_options]))
    assert grade(question, form.format(gold)).correct is True
    assert grade(question, form.format(other)).correct is False


@given(st.integers(3, 5), st.data(), st.sampled_from(("Answer: {}", "It is {}.", r"\boxed{{\text{{{}}}}}", "{}")))
def test_the_text_of_an_option_means_its_letter(num_options: int, data: st.DataObject, form: str) -> None:
    gold, other = data.draw(st.permutations(range(num_options)))[:2]
    question = make("choice", ascii_uppercase[gold], choices=list(TEXTS[:num_options]))
    assert grade(question, form.format(TEXTS[gold])).correct is True
    assert grade(question, form.format(TEXTS[other])).correct is False


def test_a_letter_beyond_the_options_is_not_an_answer() -> None:
    question = make("choice", "C", choices=list(TEXTS[:3]))
    assert grade(question, r"\boxed{D}").prediction is None
