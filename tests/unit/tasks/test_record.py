"""Questions given to the Python API: texts, records and `Question`s."""

from typing import Any

import pytest

from latentmas_ray.errors import TaskError
from latentmas_ray.tasks import question_from, questions_from
from latentmas_ray.tasks.question import Question


def test_a_plain_string_becomes_a_question() -> None:
    question = question_from("Why?", index=4)
    assert (question.id, question.question, question.kind, question.gold) == ("q4", "Why?", "text", None)


def test_a_mapping_becomes_a_question() -> None:
    assert question_from({"question": "1 + 1?", "gold": 2}, index=0).kind == "number"
    assert question_from({"question": "x?", "gold": "b"}, index=0).kind == "choice"
    question = question_from({"id": 9, "question": "x?", "gold": 2, "kind": "text", "mine": 1}, index=3)
    assert (question.id, question.kind, question.gold, question.record["mine"]) == ("9", "text", "2", 1)


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ("", "questions[2]: question"),
        ({}, "questions[2]: question"),
        ({"question": "x", "gold": []}, "questions[2]: gold"),
        (7, "questions[2]"),
        (None, "questions[2]"),
    ],
)
def test_bad_questions_are_named(value: Any, field: str) -> None:
    with pytest.raises(TaskError) as caught:
        question_from(value, index=2)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("changes", "field", "expected"),
    [
        ({"kind": "code"}, "question 1: test", "every question of kind code needs test"),
        (
            {"kind": "code", "record": {"test": "def check(c): pass"}},
            "question 1: entry_point",
            "name the tested function",
        ),
        ({"kind": "code", "record": {"test": "f()", "entry_point": "f"}}, "question 1: prompt", "needs prompt"),
        ({"kind": "code", "record": {"test": ["f()"]}}, "question 1: test", "non-empty string"),
        ({"kind": "numbers"}, "question 1: kind", "number, choice, text, math or code"),
        ({"id": 1}, "question 1: id", "non-empty string"),
        ({"question": None}, "question 1: question", "a string"),
        ({"gold": 5}, "question 1: gold", "a string, or None"),
        ({"record": None}, "question 1: record", "a mapping"),
    ],
)
def test_a_question_is_checked_when_it_is_made(changes: dict[str, Any], field: str, expected: str) -> None:
    good: dict[str, Any] = {"id": "1", "question": "x?", "kind": "text", "gold": None, "record": {}}
    Question(**good)
    Question(**{**good, "kind": "code", "record": {"test": "assert f(1) == 1"}})
    with pytest.raises(TaskError, match=expected) as caught:
        Question(**{**good, **changes})
    assert caught.value.field == field


def test_a_gold_that_is_not_an_option_is_named_for_a_question_object_too() -> None:
    own = Question(id="a", question="x?", kind="choice", gold="red", record={"choices": ["blue", "green"]})
    with pytest.raises(TaskError, match="it must be a letter, one of A, B") as caught:
        questions_from(["y?", own])
    assert caught.value.field == "questions[1]: gold"


def test_a_given_id_is_not_used_for_another_question() -> None:
    own = Question(id="q0_2", question="z?", kind="text", gold=None, record={})
    questions = questions_from(
        ["x?", {"id": "q0", "question": "y?"}, own, {"question": "w?"}, {"id": 4, "question": "v?"}]
    )
    assert [question.question for question in questions] == ["x?", "y?", "z?", "w?", "v?"]
    assert [question.id for question in questions] == ["q0_3", "q0", "q0_2", "q3", "4"]
    assert questions[0].record["id"] == "q0_3"  # what a prompt sees


@pytest.mark.parametrize(
    "again", [{"id": "a", "question": "y?"}, Question(id="a", question="y?", kind="text", gold=None, record={})]
)
def test_a_repeated_id_is_refused(again: Any) -> None:
    with pytest.raises(TaskError, match=r"ids must differ; questions\[1\] has the same") as caught:
        questions_from(["x?", {"id": "a", "question": "x?"}, "z?", again])
    assert caught.value.field == "questions[3]: id"
    assert caught.value.value == "a"


@pytest.mark.parametrize("single", ["Why?", {"question": "Why?"}, question_from("Why?", index=0), None])
def test_a_single_question_instead_of_a_list_is_refused(single: Any) -> None:
    with pytest.raises(TaskError, match="a list of questions; write a single one in brackets") as caught:
        questions_from(single)
    assert caught.value.field == "questions"
