"""A question has one copy for each of its hints: an id, a record and a hint of its own."""

from typing import Any

import pytest

from latentmas_ray.errors import ConfigError, TaskError
from latentmas_ray.tasks import mismatch_memory
from latentmas_ray.tasks.hints.copies import copies_for_hints
from latentmas_ray.tasks.question import Question


def question(name: str, **record: Any) -> Question:
    return Question(id=name, question=f"{name}?", kind="number", gold="1", record={"id": name, **record})


def test_copies_stand_next_to_each_other_and_keep_the_question() -> None:
    copies = copies_for_hints([question("a"), question("b")], 2, "own")
    assert [copy.id for copy in copies] == ["a.hint-1", "a.hint-2", "b.hint-1", "b.hint-2"]
    assert {(copy.question, copy.gold) for copy in copies} == {("a?", "1"), ("b?", "1")}
    assert [copy.record["hint_number"] for copy in copies] == [1, 2, 1, 2]
    assert all(copy.record["num_hints"] == 2 and copy.record["hint"] == "" for copy in copies)
    assert [(copy.hint.question, copy.hint.number, copy.hint.text) for copy in copies if copy.hint] == [
        ("a", 1, None),
        ("a", 2, None),
        ("b", 1, None),
        ("b", 2, None),
    ]


def test_hints_that_the_task_wrote() -> None:
    own = question("a", hints=["first", "second", "third"], wrong_hints=["1st", "2nd", "3rd"])
    copies = copies_for_hints([own], 2, "oracle", written_as="planner")
    assert [copy.record["hint"] for copy in copies] == ["first", "second"]
    assert [copy.record["wrong_hint"] for copy in copies] == ["1st", "2nd"]
    assert [(copy.hint.text, copy.hint.written_as) for copy in copies if copy.hint] == [
        ("first", "planner"),
        ("second", "planner"),
    ]
    bare = copies_for_hints([own], 2, "oracle", written_as="planner", has_hints=False)
    assert [copy.id for copy in bare] == [copy.id for copy in copies]  # the same random numbers
    assert all(copy.record["hint"] == "" and copy.hint and copy.hint.text is None for copy in bare)


def test_another_questions_hint_goes_with_its_memory() -> None:
    asked = mismatch_memory([question("a", hints=["of a"]), question("b", hints=["of b"])])
    first, second = copies_for_hints(asked, 1, "oracle", written_as="planner")
    assert first.seen_by_others is not None
    assert (first.seen_by_others.id, first.seen_by_others.record["hint"]) == ("b.hint-1", "of b")
    assert first.hint is not None
    assert second.hint is not None
    assert (first.hint.text, second.hint.text) == ("of b", "of a")


@pytest.mark.parametrize(
    ("record", "error", "expected"),
    [
        ({}, ConfigError, "hints: got 'oracle'; question a has no field hints"),
        ({"hints": ["one"]}, ConfigError, "abstractions: got '?2'?; question a has 1 hints: .* at most 1"),
        ({"hints": "one"}, TaskError, "question a: hints: got .*a list of texts"),
        ({"hints": ["one", " "]}, TaskError, "question a: hints: got .*that are not empty"),
        ({"hints": ["one", 2]}, TaskError, "question a: hints: got .*a list of texts"),
        ({"hints": []}, ConfigError, "question a has 0 hints"),
        ({"hints": ["a", "b"], "wrong_hints": ["a"]}, ConfigError, "question a has 1 wrong_hints"),
    ],
)
def test_records_without_usable_hints(record: dict[str, Any], error: type[Exception], expected: str) -> None:
    with pytest.raises(error, match=expected):
        copies_for_hints([question("a", **record)], 2, "oracle")
    assert len(copies_for_hints([question("a", **record)], 2, "own")) == 2  # nothing of it is used
