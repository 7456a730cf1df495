"""Grading: right answers are right, wrong ones are wrong."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentmas_ray.tasks import AnswerKind, Grade, Question, answer_form, extract, grade


def make(kind: AnswerKind, gold: str | None, question: str = "?") -> Question:
    return Question(id="1", question=question, kind=kind, gold=gold, record={})


@pytest.mark.parametrize(
    ("gold", "answer", "prediction", "correct"),
    [
        ("18", "18.00", "18", True),
        ("0.5", r"\boxed{\frac{1}{2}}", "0.5", True),
        ("1/3", "it is 2/6", "1/3", True),
        ("50", "50%", "50", True),
        ("50%", "50", "50", True),
        ("1,000", "the answer is 1000", "1000", True),
        ("1000", "the answer is 1,000", "1000", True),
        ("0.3333", "1/3", "1/3", False),
        ("18", "eighteen", None, False),
        ("18", r"\boxed{\text{unknown}}", "unknown", False),
        ("18", "", None, False),
        ("x + 1", r"\boxed{X + 1}", "X + 1", True),  # a gold that is no number is compared as text
        ("x + 1", "Answer: 1", "1", False),
        (None, "18", "18", None),
    ],
)
def test_numbers(gold: str | None, answer: str, prediction: str | None, correct: bool | None) -> None:
    assert grade(make("number", gold), answer) == Grade(prediction=prediction, correct=correct)


@given(st.integers(-(10**9), 10**9), st.integers(1, 10**9))
def test_a_worked_solution_is_right_and_a_wrong_one_is_not(gold: int, error: int) -> None:
    solution = "There are 16 - 3 = <<16-3=13>>13 eggs.\nThey cost 13 * 2 = $26.\n#### {:,}"
    assert grade(make("number", str(gold)), solution.format(gold)).correct is True
    assert grade(make("number", f"{gold:,}.0"), solution.format(gold)).correct is True
    assert grade(make("number", str(gold)), solution.format(gold + error)).correct is False


@pytest.mark.parametrize(
    ("gold", "answer", "prediction", "correct"),
    [
        ("b", r"\boxed{B}", "B", True),
        ("B", "the answer is b", "B", True),
        ("B", "Answer: Green", "B", True),
        ("Green", "B", "B", True),
        ("B", "A", "A", False),
        ("B", "who knows", None, False),
        (None, "C", "C", None),
    ],
)
def test_choices(gold: str | None, answer: str, prediction: str | None, correct: bool | None) -> None:
    question = make("choice", gold, "Which colour?\nA. Red\nB. Green\nC. Blue")
    assert grade(question, answer) == Grade(prediction=prediction, correct=correct)


@pytest.mark.parametrize(
    ("gold", "answer", "prediction", "correct"),
    [
        ("Paris", "I know it.\nAnswer: paris.", "paris.", True),
        ("Paris", r"\boxed{\text{Paris}}", "Paris", True),
        ("New York", "Answer:\n**new   york**", "new   york", True),
        ("b", "Answer: a\nFinal answer: b\nbye", "b", True),
        ("yes", "so\n#### Yes", "Yes", True),
        ("Paris", " Paris ", "Paris", True),
        ("Paris", "It is Paris", "It is Paris", False),
        ("Paris", "<think>Paris", None, False),
        (None, "Answer: x", "x", None),
    ],
)
def test_texts(gold: str | None, answer: str, prediction: str | None, correct: bool | None) -> None:
    assert grade(make("text", gold), answer) == Grade(prediction=prediction, correct=correct)


@given(
    st.sampled_from(["number", "choice", "text"]), st.none() | st.text(max_size=20), st.text(max_size=200), st.text()
)
def test_grading_never_raises(kind: AnswerKind, gold: str | None, answer: str, text: str) -> None:
    question = make(kind, gold, text)
    result = grade(question, answer)
    assert (result.correct is None) == (gold is None)
    if gold is None:
        assert result.prediction == extract(question, answer)


@pytest.mark.parametrize(("kind", "value"), [("number", "7"), ("choice", "B"), ("text", "Oslo")])
def test_an_answer_in_the_requested_form_is_read(kind: AnswerKind, value: str) -> None:
    form = answer_form(kind)
    assert form.endswith(".")
    assert "\n" not in form
    answer = f"{form}\n\\boxed{{{value}}}" if "\\boxed{}" in form else f"Because.\nAnswer: {value}"
    assert grade(make(kind, value), answer).correct is True
