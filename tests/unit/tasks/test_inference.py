"""Records that differ from the others in their file: told in one line, and the others keep their kind."""

from pathlib import Path
from typing import Any

import pytest

from latentmas_ray.tasks import load_questions
from latentmas_ray.tasks.files import load_task
from tests.cases.records import Record, write


def golds(*values: Any) -> list[Record]:
    return [{"id": f"r{n}", "question": f"What is {n}?", "gold": value} for n, value in enumerate(values, start=1)]


def with_options(number: int, **fields: Any) -> Record:
    return {"id": f"c{number}", "question": f"Which of {number}?", "choices": ["oak", "elm", "fir"], **fields}


NOTED: list[tuple[list[Record], str, str]] = [
    (
        golds(18, "3", "unknown", 4),
        "number number text number",
        "q.jsonl:3: gold: got 'unknown'; the golds of the other 3 records are numbers: it is graded as text, the "
        "others as number",
    ),
    (
        golds("n/a", 1, 2),
        "text number number",
        "q.jsonl:1: gold: got 'n/a'; the golds of the other 2 records are numbers",
    ),
    (golds(1, 2, 3, "x^2"), "number number number text", "q.jsonl:4: gold: got 'x^2'"),
    (golds(1, 2, "b", 3), "number number text number", "q.jsonl:3: gold: got 'b'"),
    (
        golds("A", "b", "Paris", "C"),
        "choice choice text choice",
        "q.jsonl:3: gold: got 'Paris'; the golds of the other 3 records are letters",
    ),
    (golds("A", "b", 12, "C"), "choice choice number choice", "q.jsonl:3: gold: got '12'"),
    (
        [*golds(1, 2, 3), {"id": "t", "question": "Which?\nA. oak\nB. elm", "gold": "B"}],
        "number number number choice",
        "q.jsonl:4: gold: got 'B'; the golds of the other 3 records are numbers: it is graded as choice",
    ),
    (
        [*golds(1, 2, 3), {"id": "t", "question": "Which?\nA. oak\nB. elm", "gold": "elm"}],
        "number number number choice",
        "q.jsonl:4: gold: got 'elm'",
    ),
    (
        [*golds(1, 2), with_options(1, gold="B")],
        "number number choice",
        "q.jsonl: with options and of kind choice: 1 (the first: q.jsonl:3, choices); the other 2 have none",
    ),
    (
        [with_options(1, gold="B"), with_options(2, gold="C"), *golds(42)],
        "choice choice number",
        "q.jsonl: without options and of kind number: 1 (the first: q.jsonl:3); the other 2 are of kind choice",
    ),
    (
        golds(1, 2, 3, "xy", "yx"),
        "text text text text text",
        "q.jsonl: 3 golds are numbers, 0 letters and 2 texts (such as 'xy'): all are graded as text",
    ),
    (
        [with_options(1, gold="A"), with_options(2, gold="A") | {"choices": ["oak", "elm", "elm"]}],
        "choice choice",
        "q.jsonl: records with two options of one text: 1 (the first: q.jsonl:2)",
    ),
    (
        golds("A", "B"),
        "choice choice",
        "q.jsonl: of kind choice but without options that are found: 2 (the first: r1)",
    ),
    (
        [{**record, "variants": ["oak", "elm"]} for record in golds("oak", "elm")],
        "text text",
        "q.jsonl:1: variants: every gold may be one of its items",
    ),
]


@pytest.mark.parametrize(("records", "kinds", "note"), NOTED)
def test_what_differs_is_told_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, records: list[Record], kinds: str, note: str
) -> None:
    path = write(tmp_path, *records)
    questions = load_questions(path)
    assert [question.kind for question in questions] == kinds.split()
    told = [line.getMessage() for line in caplog.records]
    assert [line for line in told if line.startswith(note)], told
    assert all("\n" not in line for line in told)
    assert [question.kind for question in load_questions(path, limit=1)] == kinds.split()[:1]  # whatever the limit


REMARKED: list[tuple[list[Record], str]] = [
    (
        [{**golds("Paris")[0], "passage": "It lies on the Seine."}],
        "q.jsonl: question r1 has passage; no built-in topology shows it",
    ),
    (
        [{"id": 1, "question": "Who?", "answers": {"text": ["Ann"]}}],
        "q.jsonl: no gold is read from answers; answers are not graded",
    ),
    ([with_options(n, gold="A") for n in range(12)], "q.jsonl: the right option is A in all 12 choices"),
    (
        [{**record, "kind": "number"} for record in golds(1, "x + 1", 2)],
        "q.jsonl:2: gold: got 'x + 1'; it is not a number, although its kind is",
    ),
]


@pytest.mark.parametrize(("records", "note"), REMARKED)
def test_what_a_user_should_know_is_told(tmp_path: Path, records: list[Record], note: str) -> None:
    notes = load_task(write(tmp_path, *records)).notes
    assert [one for one in notes if one.startswith(note)], notes


def test_many_outliers_of_many_are_told_once(tmp_path: Path) -> None:
    loaded = load_task(write(tmp_path, *golds(*range(57), "x", "y", "z")))
    assert [question.kind for question in loaded.questions].count("number") == 57
    assert loaded.notes == (
        "q.jsonl:58: gold: got 'x' (and 2 more); the golds of the other 57 records are numbers: "
        "it is graded as text, the others as number",
    )


@pytest.mark.parametrize(
    "records",
    [golds(1, 2, 3), golds("Paris", "Rome", 1984), golds("Paris", "b"), [with_options(1, gold="A")], golds(None, 1)],
)
def test_what_agrees_is_not_told(tmp_path: Path, records: list[Record]) -> None:
    assert load_task(write(tmp_path, *records)).notes == ()
