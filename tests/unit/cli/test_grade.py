"""`latentmas grade` and `latentmas tasks`."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from latentmas_ray.cli.main import main
from latentmas_ray.errors import JournalError
from latentmas_ray.runs.rescore import rescore
from latentmas_ray.sandbox import find_obstacle
from latentmas_ray.tasks import BENCHMARKS, answer_form, load_questions
from latentmas_ray.tasks.question import KINDS

TASK = [
    {"id": "a", "question": "6 times 7?", "gold": "42", "kind": "number"},
    {"id": "b", "question": "Red?\nA. yes\nB. no", "gold": "B", "kind": "choice"},
    {"id": "c", "question": "Say it.", "kind": "text"},
    {"id": "d", "prompt": "Write f.", "test": "assert f() == 1", "kind": "code"},
]
ROWS: list[dict[str, Any]] = [
    {"id": "a", "answer": r"\boxed{42}", "prediction": None, "correct": False, "seconds": 1.5},
    {"id": "b", "answer": "Answer: (A)", "prediction": "A", "correct": False},
    {"id": "c", "answer": "it", "prediction": "it", "correct": None},
]
CODE_ROW = {"id": "d", "answer": "```python\ndef f():\n    return 1\n```", "prediction": None, "correct": False}


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    task = write(tmp_path / "task.jsonl", TASK[:3])
    return ["grade", "--task", task, "--results", write(tmp_path / "results.jsonl", ROWS)]


def test_a_results_file_is_graded_again_and_stays_as_it_is(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (tmp_path / "results.jsonl").read_bytes()
    assert main(files) == 0
    assert capsys.readouterr().out.splitlines() == [
        "3 answers, accuracy 50.0 % (was 0.0 %), 1 grade changed",
        "  a: wrong -> right (read as '42')",
    ]
    assert (tmp_path / "results.jsonl").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.jsonl", "task.jsonl"]


def test_figures_as_json(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*files, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["num_answers"], told["accuracy"], told["accuracy_before"], told["num_changed"]) == (3, 0.5, 0.0, 1)
    assert told["changed"][0]["id"] == "a"


def test_new_grades_are_written_where_that_is_asked_and_never_over_a_file(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "new.jsonl"
    assert main([*files, "--output", str(target)]) == 0
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    assert rows == [{**ROWS[0], "prediction": "42", "correct": True}, *ROWS[1:]]
    target.write_text("mine")
    assert main([*files, "--output", str(target)]) == 2
    assert "--output: got" in capsys.readouterr().err
    assert target.read_text() == "mine"
    assert main([*files, "--output", str(target), "--overwrite"]) == 0
    assert len(target.read_text().splitlines()) == 3


@pytest.mark.parametrize("output", [".", "none/new.jsonl", "s3://bucket/new.jsonl"])
def test_a_place_that_cannot_be_written_is_told_before_anything_is_graded(
    files: list[str], output: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("latentmas_ray.runs.rescore.rescore", None)
    assert main([*files, "--output", output]) == 2
    assert capsys.readouterr().err.startswith(f"error: --output: got '{output}'; ")


def test_the_results_of_a_run_stay_what_its_summary_tells_of(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").touch()
    before = (tmp_path / "results.jsonl").read_bytes()
    assert main([*files, "--output", str(tmp_path / "results.jsonl"), "--overwrite"]) == 2
    assert "it belongs to a run" in capsys.readouterr().err
    assert (tmp_path / "results.jsonl").read_bytes() == before


def test_what_a_program_said_does_not_drive_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    task, results = write(tmp_path / "task.jsonl", TASK[:1]), write(tmp_path / "r.jsonl", ROWS[:1])
    monkeypatch.setattr("latentmas_ray.runs.rescore.Change.__str__", lambda change: f"{change.id}: \x1b[31mred")
    assert main(["grade", "--task", task, "--results", results]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_compressed_files_are_read_and_written(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, packed, again = (tmp_path / name for name in ("results.jsonl", "r.jsonl.gz", "again.jsonl.gz"))
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert main([*files[:4], str(packed), "--output", str(again)]) == 0
    assert [json.loads(line)["correct"] for line in gzip.decompress(again.read_bytes()).splitlines()] == [
        True,
        False,
        None,
    ]
    packed.write_bytes(packed.read_bytes()[:-20])
    assert main([*files[:4], str(packed)]) == 2
    assert "error: --results: got" in (err := capsys.readouterr().err)
    assert "the gzip file is damaged or truncated" in err


def test_half_a_row_at_the_end_is_left_out_and_told(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results.jsonl"
    whole = results.read_bytes()
    results.write_bytes(whole + b'{"id": "a", "ans')
    assert main(files) == 0
    out, err = capsys.readouterr()
    assert out.startswith("3 answers, ")
    assert err == f"note: the last line of {results} is cut off, and left out\n"
    results.write_bytes(whole.rstrip(b"\n"))
    assert main(files) == 0
    assert capsys.readouterr() == (out, "")
    results.write_bytes(b'{"id": "a", "ans\n' + whole)
    assert main(files) == 2


def test_answers_to_other_questions_of_the_same_ids_are_refused(tmp_path: Path) -> None:
    task = write(tmp_path / "t.jsonl", [{"id": 1, "question": "Capital of France?", "gold": "Paris"}])
    questions = {question.id: question for question in load_questions(task)}
    row = {"id": 1, "question": "Capital  of France?\n", "answer": "Paris"}
    prompted = {**row, "question": "Answer in one word. Capital of France? Think first."}
    assert rescore(Path(write(tmp_path / "r.jsonl", [row, prompted])), questions).accuracy == 1
    with pytest.raises(JournalError, match=r"the task has 'Capital of France\?'; give the task") as caught:
        rescore(Path(write(tmp_path / "r.jsonl", [{**row, "question": "6 times 7?"}])), questions)
    assert caught.value.field == "r.jsonl:1: question"


def test_a_folder_is_told_what_to_give(files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*files[:4], str(tmp_path)]) == 2
    assert "it is a folder; give its results.jsonl" in capsys.readouterr().err


@pytest.mark.skipif(find_obstacle() is not None, reason="no sandbox here")
def test_code_is_run_again(tmp_path: Path) -> None:
    questions = {question.id: question for question in load_questions(write(tmp_path / "t.jsonl", TASK))}
    outcome = rescore(Path(write(tmp_path / "r.jsonl", [*ROWS, CODE_ROW])), questions)
    assert [(change.id, change.now) for change in outcome.changes] == [("a", True), ("d", True)]


def test_code_that_nothing_confines_needs_a_flag(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("latentmas_ray.tasks.grading.grade.find_obstacle", lambda: "no filter here")
    task = write(tmp_path / "t.jsonl", [one for one in TASK if one["id"] == CODE_ROW["id"]])
    command = ["grade", "--task", task, "--results", write(tmp_path / "r.jsonl", [CODE_ROW])]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "no filter here" in error
    assert "--unsafe-programs" in error
    assert main([*command, "--unsafe-programs"]) == 0
    assert "1 grade changed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "holds no answer"),
        ("{", "r.jsonl:1"),
        ('{"id": "a"}', "an id and the text answer"),
        ('{"id": "a", "answer": 7}', "an id and the text answer"),
        ('{"id": "z", "answer": "7"}', "the task has no such question"),
        ('{"id": "a", "answer": "7", "correct": "yes"}', "r.jsonl:1: correct: got 'yes'; it must be true, false, null"),
        ("[" * 100_000, "must be one JSON object"),
    ],
)
def test_a_file_of_another_form_is_named(tmp_path: Path, content: str, expected: str) -> None:
    questions = {question.id: question for question in load_questions(write(tmp_path / "t.jsonl", TASK))}
    (tmp_path / "r.jsonl").write_text(content)
    with pytest.raises(JournalError, match=expected):
        rescore(tmp_path / "r.jsonl", questions)
    with pytest.raises(JournalError, match="cannot be read"):
        rescore(tmp_path / "missing.jsonl", questions)


@pytest.mark.parametrize("asked", ["Which?", "Which?\nA. oak\nB. elm", "Choose. Which? Think."])
def test_a_row_may_have_the_question_without_its_options(tmp_path: Path, asked: str) -> None:
    record = {"id": "a", "question": "Which?", "choices": ["oak", "elm"], "gold": "elm"}
    questions = {question.id: question for question in load_questions(write(tmp_path / "t.jsonl", [record]))}
    path = Path(write(tmp_path / "r.jsonl", [{"id": "a", "question": asked, "answer": "Answer: B"}]))
    assert rescore(path, questions).accuracy == 1


def test_tasks_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tasks", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == [*(one.name for one in BENCHMARKS), "sample", "notes", "chain", "facts"]
    assert (rows["gsm8k"]["max_new_tokens"], rows["sample"]["max_new_tokens"]) == (2048, 256)
    assert rows["gpqa_diamond"]["hub"]["gated"] is True
    assert main(["tasks"]) == 0
    table = capsys.readouterr().out
    assert all(name in table for name in rows)
    assert all(f"{kind}: {answer_form(kind)}" in table for kind in KINDS)
