"""Every generated question has hints. What has to be worked out is in none of them, but by chance."""

import pytest

from latentmas_ray.tasks import load_questions
from latentmas_ray.tasks.hints.generated import MAX_HINTS, chain_hints, plan_of
from latentmas_ray.tasks.hints.leaks import has_leak

NUM = 200


@pytest.mark.parametrize("task", ["chain", "notes", "facts"])
def test_questions_have_different_hints(task: str) -> None:
    for question in load_questions(task, NUM):
        hints = question.record["hints"]
        assert len(hints) == len({*hints}) == MAX_HINTS
        assert all(hint.strip() for hint in hints)


@pytest.mark.parametrize(
    ("task", "without_numbers"), [("chain", {2, 3}), ("notes", {1, 2, 3}), ("facts", {0, 1, 2, 3})]
)
def test_hints_without_numbers_never_leak(task: str, without_numbers: set[int]) -> None:
    leaking = {
        place
        for question in load_questions(task, NUM)
        for place, hint in enumerate(question.record["hints"])
        if has_leak(question, hint)
    }
    assert leaking == {*range(MAX_HINTS)} - without_numbers


def test_only_look_ups_state_their_answer() -> None:
    questions = load_questions("notes", NUM)
    leaks = {
        wanted: [has_leak(one, one.record["hints"][0]) for one in questions if one.record["wanted"] == wanted]
        for wanted in ("look-up", "sum", "difference", "comparison")
    }
    assert all(leaks["look-up"])
    assert not any(leaks["sum"] + leaks["comparison"])


def test_a_plan_says_what_is_done_in_which_order() -> None:
    assert plan_of(5, (3, -2, 0)) == "start with 5, add 3, take 2, times 2."
    assert chain_hints(5, (3, -2, 0))[1:3] == (
        "Begin with 5 and apply in this order: +3, -2, *2.",
        "Go through the story in its order: add, then take away, then double.",
    )


@pytest.mark.parametrize("task", ["chain", "notes"])
def test_the_wrong_version_has_its_own_hints(task: str) -> None:
    for question in load_questions(task, NUM):
        assert question.record["wrong_hints"][0] != question.record["hints"][0]
