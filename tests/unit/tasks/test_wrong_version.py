"""Wrong versions of questions: generated ones, those of files, and what is refused."""

import re
from hashlib import blake2b
from typing import Any

import pytest

from latentmas_ray.errors import TaskError
from latentmas_ray.tasks import grade, question_from, wrong_version
from latentmas_ray.tasks.chain import chain_questions
from latentmas_ray.tasks.notes import MAX_COUNT, MIN_COUNT, notes_questions
from latentmas_ray.tasks.question import Corruption, Question
from latentmas_ray.tasks.trained import trained_task

FACT = re.compile(r"(\w+) has (\d+) \w+\.")


def test_the_notes_have_one_wrong_fact_from_which_another_answer_follows() -> None:
    usual = 0
    for question in notes_questions(1000):
        right, wrong = (dict(FACT.findall(" ".join(question.record[key]))) for key in ("notes", "wrong_notes"))
        (name,) = [name for name in right if right[name] != wrong[name]]
        assert list(right) == list(wrong)
        assert name in question.question
        asked = [int(wrong[found]) for found in re.findall(r"\w+", question.question) if found in wrong]
        by_kind = {
            "look-up": asked[0],
            "sum": sum(asked),
            "difference": asked[0] - asked[-1],
            "comparison": "AB"[asked[0] < asked[-1]],
        }
        gold = question.record["wrong_gold"]
        assert gold == str(by_kind[question.record["wanted"]]) != question.gold
        assert question.record["wanted"] != "difference" or int(gold) > 0
        usual += MIN_COUNT <= int(wrong[name]) <= MAX_COUNT
    assert usual > 990


def test_the_chain_has_one_wrong_number_and_stays_a_question_of_its_kind() -> None:
    for question in chain_questions(1000):
        right, wrong = (re.findall(r"\d+", question.record[key]) for key in ("question", "wrong_question"))
        assert sum(a != b for a, b in zip(right, wrong, strict=True)) == 1
        assert trained_task(question.record["wrong_question"]) == "chain"
        assert question.record["wrong_gold"] != question.gold


def test_questions_are_those_of_before_but_for_their_wrong_versions() -> None:
    """Figures of earlier versions stay comparable: the draws of a wrong version change no later question."""
    digests = {
        make.__name__: blake2b(
            repr([(one.question, one.gold, one.record.get("notes")) for one in make(1000)]).encode(), digest_size=8
        ).hexdigest()
        for make in (notes_questions, chain_questions)
    }
    assert digests == {"notes_questions": "05da2ada39d51712", "chain_questions": "d419631e93c160c0"}


def question(**fields: Any) -> Question:
    return question_from({"id": "a", "question": "How many?", "gold": "7", **fields}, index=0)


def test_a_record_names_what_is_wrong_and_what_follows() -> None:
    wrong = wrong_version(question(notes="7 keys", plan="count", wrong_notes="8 keys", wrong_gold=8))
    assert (wrong.id, wrong.question, wrong.gold) == ("a", "How many?", "8")
    assert dict(wrong.record) == {"id": "a", "question": "How many?", "gold": "8", "notes": "8 keys", "plan": "count"}


def test_a_wrong_question_of_a_choice_shows_its_options() -> None:
    fields = {"question": "Red or blue sky?", "choices": ["red", "blue"], "gold": "B"}
    wrong = wrong_version(question(**fields, wrong_question="Which sky on Mars?", wrong_gold="A"))
    assert wrong.question == "Which sky on Mars?\nA. red\nB. blue"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "memory: got 'corrupted'; question a has no wrong version: its record needs a gold, wrong_gold"),
        ({"wrong_gold": "8"}, "question a has no wrong version"),
        ({"wrong_notes": "8", "notes": "7"}, "question a has no wrong version"),
        ({"wrong_notes": "8", "wrong_gold": "8"}, "question a has no wrong version"),  # there are no notes
        (
            {"wrong_notes": "8", "notes": "7", "wrong_gold": "7.0"},
            "wrong_gold: got '7.0'; it must differ from the gold",
        ),
        ({"wrong_notes": "8", "notes": "7", "wrong_gold": True}, "it must be a non-empty string or a number"),
        ({"wrong_question": " ", "wrong_gold": "8"}, "question a: wrong_question: got ' '"),
        ({"gold": None, "wrong_question": "b?", "wrong_gold": "8"}, "question a has no gold"),
        (
            {"gold": "A", "choices": ["x", "y"], "wrong_question": "b?", "wrong_gold": "C"},
            "for kind choice it must be one of A, B",
        ),
    ],
)
def test_a_wrong_version_that_means_nothing_is_refused(fields: dict[str, Any], expected: str) -> None:
    with pytest.raises(TaskError) as caught:
        wrong_version(question(**fields))
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "right", "adopted"), [("7", True, False), ("8.0", False, True), ("9", False, False)]
)
def test_an_answer_adopts_what_follows_from_the_wrong_version(answer: str, right: bool, adopted: bool) -> None:
    asked = question(notes="7 keys", wrong_notes="8 keys", wrong_gold="8")
    told = Question(**{**vars(asked), "corruption": Corruption(agent="b", question=wrong_version(asked))})
    found = grade(told, f"So \\boxed{{{answer}}}")
    assert (found.correct, found.adopted) == (right, adopted)
    assert grade(asked, answer).adopted is None
