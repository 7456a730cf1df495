"""Question files: how they are read, and the errors of bad ones."""

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentmas_ray.errors import TaskError
from latentmas_ray.tasks import BUILTIN_TASKS, grade, load_questions
from tests.cases.records import Record, write


def record(number: int, **fields: Any) -> Record:
    return {"id": f"r{number}", "question": f"What is {number}?", **fields}


@pytest.mark.parametrize("task", BUILTIN_TASKS)
def test_built_in_tasks_load_and_their_golds_grade_right(task: str) -> None:
    questions = load_questions(task)
    assert len(questions) >= 10
    assert len({question.id for question in questions}) == len(questions)
    assert {question.kind for question in questions} == (
        {"number"} if task in ("chain", "facts") else {"number", "choice"}
    )
    for question in questions:
        assert question.gold is not None
        assert grade(question, f"\\boxed{{{question.gold}}}").correct is True
        assert grade(question, "no idea").correct is False
    assert load_questions(task, limit=3) == questions[:3]


@pytest.mark.parametrize("name", ["q.jsonl", "q.jsonl.gz", "Q.JSONL"])
def test_a_file_is_read(tmp_path: Path, name: str) -> None:
    path = write(
        tmp_path, record(1, gold=18, extra=[1]), "", "  ", record(2, gold="1,000"), {**record(3), "id": 3}, name=name
    )
    one, two, three = load_questions(path)
    assert (one.id, one.question, one.gold, one.kind) == ("r1", "What is 1?", "18", "number")
    assert one.record == record(1, gold=18, extra=[1])
    assert two.gold == "1,000"
    assert (three.id, three.gold, three.kind) == ("3", None, "number")


@settings(max_examples=30)
@given(
    st.lists(
        st.fixed_dictionaries(
            {"id": st.text(min_size=1).filter(str.strip), "question": st.text(min_size=1).filter(str.strip)},
            optional={"gold": st.integers() | st.none() | st.text(min_size=1).filter(str.strip)},
        ),
        min_size=1,
        max_size=6,
        unique_by=lambda record: record["id"],
    ),
    st.booleans(),
    st.booleans(),
)
def test_a_written_file_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, records: list[Record], packed: bool, ascii_only: bool
) -> None:
    lines = [json.dumps({**fields, "kind": "text"}, ensure_ascii=ascii_only) for fields in records]
    path = write(tmp_path_factory.mktemp("files"), *lines, name="q.jsonl.gz" if packed else "q.jsonl")
    questions = load_questions(path)
    assert [question.id for question in questions] == [fields["id"] for fields in records]
    assert [question.question for question in questions] == [fields["question"] for fields in records]
    golds = [None if fields.get("gold") is None else str(fields["gold"]) for fields in records]
    assert [question.gold for question in questions] == golds


def test_a_byte_order_mark_and_windows_line_ends_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(record(1)).encode() + b"\r\n" + json.dumps(record(2)).encode())
    assert len(load_questions(str(path))) == 2


@pytest.mark.parametrize(
    ("golds", "kind"),
    [
        (["18", 3, "1,000", "$5", "50%", "3/4", 0.5], "number"),
        (["a", "B"], "choice"),
        (["12 apples", "3"], "text"),
        (["a", "7"], "text"),
        (["Paris"], "text"),
        ([None, "7"], "number"),
        ([None, None], "text"),
    ],
)
def test_the_kind_is_inferred_from_all_golds(tmp_path: Path, golds: list[object], kind: str) -> None:
    path = write(tmp_path, *(record(number, gold=gold) for number, gold in enumerate(golds)))
    assert {question.kind for question in load_questions(path)} == {kind}
    assert {question.kind for question in load_questions(path, limit=1)} == {kind}


def test_an_explicit_kind_wins_over_the_task_and_the_task_over_inference(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        record(1, gold="7", kind="text", task="gsm8k"),
        record(2, gold="7", task="GSM8K"),
        record(3, gold="b", task="arc-easy"),
        record(4, gold="7", task="my own"),
    )
    assert [question.kind for question in load_questions(path)] == ["text", "number", "choice", "number"]


def test_reading_stops_at_the_limit_where_kinds_are_known(tmp_path: Path) -> None:
    known = write(tmp_path, record(1, kind="number"), record(2, kind="text"), "broken", name="known.jsonl")
    assert len(load_questions(known, limit=2)) == 2
    inferred = write(tmp_path, record(1, gold=1), "broken", name="inferred.jsonl")
    with pytest.raises(TaskError, match=r"inferred\.jsonl:2"):  # the later golds are needed
        load_questions(inferred, limit=1)
    assert len(load_questions(write(tmp_path, record(1)), limit=5)) == 1


UNCALLED = "import math\n\nEPSILON = 1e-6\n\ndef test_f():\n    assert f(1) == 1"
MAIN_ONLY = (
    "import unittest\n\nclass Tests(unittest.TestCase):\n    pass\n\nif __name__ == '__main__':\n    unittest.main()"
)
BAD_LINES = [
    ("{", "q.jsonl:2", "one JSON object"),
    ("[1]", "q.jsonl:2", "one JSON object"),
    ("7", "q.jsonl:2", "one JSON object"),
    ("[" * 100_000, "q.jsonl:2", "nested"),
    ('{"id": ' + "9" * 5000 + "}", "q.jsonl:2", "one JSON object"),
    ({"id": "a"}, "q.jsonl:2: question", "every question needs question"),
    ({"id": "a", "question": ""}, "q.jsonl:2: question", "non-empty string"),
    ({"id": "a", "question": " \n"}, "q.jsonl:2: question", "non-empty string"),
    ({"id": "a", "question": 7}, "q.jsonl:2: question", "non-empty string"),
    ({"id": "a", "question": "\ud800"}, "q.jsonl:2: question", "surrogate"),
    ({"question": "x"}, "q.jsonl:2: id", "every question needs id"),
    ({"id": "", "question": "x"}, "q.jsonl:2: id", "non-empty string"),
    ({"id": None, "question": "x"}, "q.jsonl:2: id", "non-empty string"),
    ({"id": True, "question": "x"}, "q.jsonl:2: id", "non-empty string"),
    ({"id": 1.5, "question": "x"}, "q.jsonl:2: id", "non-empty string"),
    (record(2, kind="program"), "q.jsonl:2: kind", "number, choice, text, math or code"),
    (record(2, kind=["text"]), "q.jsonl:2: kind", "number, choice, text, math or code"),
    (record(2, kind="code"), "q.jsonl:2: prompt", "every question of kind code needs prompt"),
    ({"id": "a", "task": "mbpp+", "prompt": "Add."}, "q.jsonl:2: test", "every question of kind code needs test"),
    ({"id": "a", "prompt": "Add.", "test": " "}, "q.jsonl:2: test", "non-empty string"),
    (
        {"id": "a", "prompt": "Add.", "test": "f()", "entry_point": "f("},
        "q.jsonl:2: entry_point",
        "name of the tested function",
    ),
    (
        {"id": "a", "prompt": "def f():\n", "test": "def check(candidate):\n    assert candidate() == 1"},
        "q.jsonl:2: entry_point",
        "must name the tested function",
    ),
    ({"id": "a", "prompt": "Add.", "test": UNCALLED}, "q.jsonl:2: test", "every answer would pass"),
    ({"id": "a", "prompt": "Add.", "test": MAIN_ONLY}, "q.jsonl:2: test", "every answer would pass"),
    ({"id": "a", "prompt": "Add.", "test": "answer = f(1"}, "q.jsonl:2: test", "it must be Python"),
    (record(2, gold=[]), "q.jsonl:2: gold", "non-empty string or a finite number"),
    (record(2, gold=True), "q.jsonl:2: gold", "non-empty string or a finite number"),
    (record(2, gold=" "), "q.jsonl:2: gold", "non-empty string or a finite number"),
    (record(2, gold=float("nan")), "q.jsonl:2", "JSON has no such number"),
    ('{"id": "a", "question": "x", "gold": 1e999}', "q.jsonl:2: gold", "finite"),
    (record(2, kind="choice", gold="red"), "q.jsonl:2: gold", "such as B"),
    (record(2, kind="choice", gold="C", choices=["x", "y"]), "q.jsonl:2: gold", "one of A, B"),
]


@pytest.mark.parametrize(("line", "field", "expected"), BAD_LINES)
def test_a_bad_line_is_named(tmp_path: Path, line: Record | str, field: str, expected: str) -> None:
    with pytest.raises(TaskError) as caught:
        load_questions(write(tmp_path, record(1, kind="text"), line))
    assert caught.value.field == field
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_repeated_record_counts_once_and_another_question_with_its_id_gets_a_new_id(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = {**record(1), "question": "What else?"}
    path = write(tmp_path, record(1), record(2), record(1), other, other, {**other, "gold": "7"}, record(3))
    questions = load_questions(path)
    assert [question.id for question in questions] == ["r1", "r2", "r1#2", "r1#3", "r3"]
    assert [question.question for question in questions[2:4]] == ["What else?", "What else?"]
    assert [line.getMessage() for line in caplog.records] == [
        "q.jsonl: 2 repeated records are ignored (the first: r1); "
        "2 questions have the id of another one and get a new id (the first: r1#2)"
    ]
    assert [question.id for question in load_questions(path, limit=3)] == ["r1", "r2", "r1#2"]  # whatever the limit


@pytest.mark.parametrize(
    ("key", "one", "other"),
    [
        ("choices", ["red", "blue"], ["red", "green"]),
        ("notes", ["Ann has 2 nuts."], ["Ann has 3 nuts."]),
        ("test", "assert f(1) == 1", "assert f(1) == 2"),
    ],
)
def test_questions_with_one_id_that_differ_in_any_field_are_kept(
    tmp_path: Path, key: str, one: Any, other: Any
) -> None:
    asked = {"id": "a", "question": "Which?", "prompt": "Write f.", "gold": "A"}
    path = write(tmp_path, {**asked, key: one}, {**asked, key: one}, {**asked, key: other})
    found = [(question.id, question.record[key]) for question in load_questions(path)]
    assert found == [("a", one), ("a#2", other)]


def test_int_and_string_ids_share_one_namespace(tmp_path: Path) -> None:
    path = write(tmp_path, {**record(1), "id": 7}, {**record(2), "id": "7"})
    assert [question.id for question in load_questions(path)] == ["7", "7#2"]


def test_records_of_code_need_no_question(tmp_path: Path) -> None:
    head = {
        "id": "c/1",
        "task": "humanevalplus",
        "prompt": "def f(x):\n",
        "test": "def check(f): pass",
        "entry_point": "f",
    }
    examples = {"id": "c/2", "prompt": "Write f.", "test": "assert f(1) == 1", "test_list": ["assert f(1) == 1"]}
    first, second = load_questions(write(tmp_path, head, examples))
    assert (first.kind, second.kind, first.gold) == ("code", "code", None)
    assert first.question == "Complete this Python function:\n\n```python\ndef f(x):\n```"
    assert "tests such as these:\n\n```python\nassert f(1) == 1\n```" in second.question


@pytest.mark.parametrize(
    "test",
    [
        "assert f(1) == 1",
        "def check(candidate):\n    assert candidate(1) == 1\ncheck(f)",
        "def test_f():\n    assert f(1) == 1\ntest_f()",
        "expected = 1\nif f(1) != expected:\n    raise AssertionError",
        "[result] = [f(number) for number in (1,)]",
        "def check_all(f):\n    pass\n\ntry:\n    f(1)\nexcept ValueError:\n    pass",
    ],
)
def test_tests_that_do_something_are_accepted(tmp_path: Path, test: str) -> None:
    assert load_questions(write(tmp_path, {"id": "a", "prompt": "Write f.", "test": test}))[0].kind == "code"


def test_a_line_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_bytes(json.dumps(record(1)).encode() + b"\n\xff\xfe\n")
    with pytest.raises(TaskError, match=r"q\.jsonl:2.*UTF-8"):
        load_questions(str(path))


@pytest.mark.parametrize("keep", [0.5, 0.99])
def test_a_truncated_archive_is_refused(tmp_path: Path, keep: float) -> None:
    path = Path(write(tmp_path, *(record(number, gold=number) for number in range(200)), name="q.jsonl.gz"))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(TaskError, match="damaged or truncated"):
        load_questions(str(path))


def test_damaged_archives_are_refused(tmp_path: Path) -> None:
    path = Path(write(tmp_path, *(record(number, gold=number) for number in range(200)), name="q.jsonl.gz"))
    data = bytearray(path.read_bytes())
    for position in range(0, len(data), 7):
        path.write_bytes(data[:position] + bytes([data[position] ^ 0x55]) + data[position + 1 :])
        with suppress(TaskError):  # any other exception fails the test; a flipped name or time in the header is fine
            load_questions(str(path))
    path.write_text("not packed")
    with pytest.raises(TaskError, match="damaged"):
        load_questions(str(path))


def test_bad_paths_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "q.csv").write_text("id,question")
    (tmp_path / "empty.jsonl").write_text("\n \n")
    cases = {
        "missing.jsonl": "no such file",
        "missing.jsonl.gz": "no such file",
        "folder.jsonl": "it is a folder",
        "": "it is a folder",
        "q.csv": "must be named FILE.jsonl",
        "missing.json": "must be named FILE.jsonl",
        "empty.jsonl": "no question",
        "x" * 5000 + ".jsonl": "cannot be read",
        "nul\0.jsonl": "no such file",
    }
    for name, expected in cases.items():
        with pytest.raises(TaskError) as caught:
            load_questions(f"{tmp_path}/{name}")
        assert caught.value.field == "task"
        assert expected in str(caught.value), name


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("smaple", "known are sample, notes, chain, facts, gsm8k, aime2024"),
        ("humaneval", "unknown task"),
        ("openai/gsm8k", "it is the dataset of the task gsm8k"),
        ("allenai/AI2_ARC", "it is the dataset of the tasks arc_easy and arc_challenge"),
        ("questions.json", "must be named FILE.jsonl"),
        ("", "it is a folder"),
    ],
)
def test_unknown_names_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, expected: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TaskError) as caught:
        load_questions(task)
    assert expected in str(caught.value)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused(limit: int) -> None:
    with pytest.raises(TaskError, match="at least 1"):
        load_questions("sample", limit=limit)


def test_the_package_imports_no_heavy_library() -> None:
    code = "import sys, latentmas_ray.tasks; print(*{'torch', 'ray', 'transformers', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
