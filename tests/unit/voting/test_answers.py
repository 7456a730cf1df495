"""Which answers are one vote: as the task's grader sees them."""

from typing import Any

import pytest

from latentmas_ray.errors import TaskError
from latentmas_ray.tasks.question import AnswerKind, Question
from latentmas_ray.voting.answers import gold_label, label_answers, option_labels


def asked(kind: AnswerKind, gold: str | None = None, text: str = "What?", **more: Any) -> Question:
    return Question(id="q", question=text, kind=kind, gold=gold, record={}, **more)


def labels(question: Question, *answers: str | None) -> list[str | None]:
    return list(label_answers(question, {str(agent): answer for agent, answer in enumerate(answers)}).values())


CHOICE = asked("choice", "B", "Which?\nA. red\nB. green\nC. blue")


def test_choices_are_the_same_by_letter_and_others_are_no_vote() -> None:
    assert option_labels(CHOICE) == ("A", "B", "C")
    assert labels(CHOICE, "A", "B", "D", None) == ["A", "B", None, None]
    assert gold_label(CHOICE, {}) == "B"
    assert gold_label(asked("choice", "green", CHOICE.question), {}) == "B"


def test_numbers_are_the_same_by_value() -> None:
    question = asked("number", "18")
    assert labels(question, "18", "18.0", "1/2", "0.5", None, "") == ["18", "18", "0.5", "0.5", None, None]
    assert gold_label(question, {"a": "18", "b": "0.5"}) == "18"
    assert gold_label(question, {}) == "18"
    assert labels(question, "many", "Many.", "18") == ["Many.", "Many.", "18"]


def test_texts_are_the_same_as_graded() -> None:
    question = asked("text", "Paris, France")
    assert labels(question, "paris", "Paris.", "Rome") == ["Paris.", "Paris.", "Rome"]
    assert gold_label(question, {"a": "paris, france", "b": "Rome"}) == "paris, france"
    assert gold_label(asked("text"), {"a": "Rome"}) is None


def test_the_order_of_agents_decides_no_label() -> None:
    question = asked("text")
    assert set(labels(question, "b", "A", "a.")) == set(labels(question, "a.", "b", "A"))


def test_latex_is_the_same_by_value() -> None:
    pytest.importorskip("math_verify")
    question = asked("math", "\\frac{1}{2}")
    first, second, other = labels(question, "\\frac{1}{2}", "\\frac{2}{4}", "x^2")
    assert first == second != other
    assert gold_label(question, {"a": first}) == first


def test_programs_are_no_votes() -> None:
    question = Question(id="q", question="Write f.", kind="code", gold=None, record={"test": "assert f()"})
    with pytest.raises(TaskError, match="its answers are programs"):
        label_answers(question, {"a": "x"})


def test_a_choice_needs_its_options() -> None:
    with pytest.raises(TaskError, match="at least 2"):
        option_labels(asked("choice", "B", "Which one?"))
