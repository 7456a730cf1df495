"""Errors: all can be pickled, and an input error is one line."""

import copy
import inspect
import pickle

import pytest

from latentmas_ray import errors
from latentmas_ray.errors import (
    MAX_VALUE_CHARS,
    ConfigError,
    InputError,
    LatentMASError,
    QuestionsFailedError,
    QuestionsTooLongError,
    RunError,
    SegmentError,
    first_line,
)
from latentmas_ray.runs.results import Failure

ALL = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if kind.__module__ == errors.__name__ and not issubclass(kind, Warning)
]
INPUT_ERRORS = [kind for kind in ALL if issubclass(kind, InputError)]
OTHER_ERRORS = [kind for kind in ALL if not issubclass(kind, InputError | QuestionsFailedError | QuestionsTooLongError)]


def test_there_is_one_root_and_three_branches_below_it() -> None:
    assert all(issubclass(kind, LatentMASError) for kind in ALL)
    branches = (InputError, RunError, SegmentError)
    assert all(sum(issubclass(kind, branch) for branch in branches) == 1 for kind in ALL if kind is not LatentMASError)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", INPUT_ERRORS)
def test_input_errors_survive_pickling(kind: type[InputError], protocol: int) -> None:
    error = kind("batch_size", 0, "it must be at least 1")
    error.__notes__ = ["seen in a worker"]
    for again in (pickle.loads(pickle.dumps(error, protocol)), copy.copy(error)):
        assert type(again) is kind
        assert str(again) == str(error)
        assert (again.field, again.value, again.expected) == (error.field, error.value, error.expected)
        assert again.__notes__ == ["seen in a worker"]


@pytest.mark.parametrize("kind", OTHER_ERRORS)
def test_other_errors_survive_pickling(kind: type[LatentMASError]) -> None:
    error = kind("actor planner died after 3 s")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error) == "actor planner died after 3 s"


def test_failed_questions_survive_pickling() -> None:
    failures = (Failure(id="q7", agent="planner", error="too long"), Failure(id="q9", agent="judger", error="no"))
    error = QuestionsFailedError(failures, 12)
    again = pickle.loads(pickle.dumps(error))
    assert again.failures == failures
    assert str(again) == str(error) == "2 of 12 questions have no answer; question q7: agent planner: too long"


@pytest.mark.parametrize("kind", INPUT_ERRORS)
@pytest.mark.parametrize(
    "value",
    ["two\nlines", "a\x1b[31mred", "\udcff", "\u2028", "tab\tand\r\n", "x" * 10_000, None, {"a": "b\n"}, b"\xff"],
)
def test_an_input_error_is_one_printable_line(kind: type[InputError], value: object) -> None:
    for error in (kind("field", value, "it must be right"), kind(str(value)[:50], "", str(value)[:50])):
        line = str(error)
        assert len(line.splitlines()) == 1
        assert line.isprintable()
        assert len(line.encode()) < 4 * MAX_VALUE_CHARS + 100


def test_the_line_names_field_value_and_what_would_be_right() -> None:
    assert str(ConfigError("limit", "0", "it must be at least 1")) == "limit: got '0'; it must be at least 1"
    assert str(ConfigError("limit", 0, "it must be at least 1")) == "limit: got '0'; it must be at least 1"
    assert "héllo" in str(ConfigError("ファイル", "héllo", "it must exist"))


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one\ntwo"), "one"),
        (ValueError("\n  \n  one   word \n"), "one word"),
        (ValueError(""), "ValueError"),
        (KeyError("a"), "'a'"),
    ],
)
def test_the_first_line_of_an_error(error: Exception, line: str) -> None:
    assert first_line(error) == line
