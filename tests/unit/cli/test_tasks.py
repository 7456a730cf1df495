"""`latentmas tasks NAME|FILE`: how the records of a task are understood."""

import json
from pathlib import Path
from typing import Any

import pytest

from latentmas_ray.cli.main import main


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def described(folder: Path, capsys: pytest.CaptureFixture[str], *records: dict[str, Any]) -> dict[str, Any]:
    path = write(folder / "own.jsonl", list(records))
    assert main(["tasks", path, "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


def test_a_file_of_options_is_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = [
        {"qid": "a", "question": "Which?", "choices": ["oak", "elm", "fir"], "answer": 0, "subject": "trees"},
        {"qid": "b", "question": "Which?", "choices": ["ant", "bee"], "answer": 1, "subject": "animals"},
    ]
    told = described(tmp_path, capsys, *records)
    assert (told["num_records"], told["kinds"], told["num_golds"]) == (2, {"choice": 2}, 2)
    assert (told["id_fields"], told["question_fields"]) == ({"qid": 2}, {"question": 2})
    assert (told["option_fields"], told["num_options"]) == ({"choices": 2}, {"2": 1, "3": 1})
    assert told["gold"] == "answer (numbered from 0)"
    assert told["other_fields"] == ["subject"]
    assert told["first"] == {"id": "a", "question": "Which?\nA. oak\nB. elm\nC. fir", "gold": "A"}
    assert "A. oak\nB. elm\nC. fir" in told["first_prompt"][-1]["content"]
    assert main(["tasks", str(tmp_path / "own.jsonl")]) == 0
    text = capsys.readouterr().out
    rows = (
        "choice",
        "choices: 2 or 3 each",
        "answer (numbered from 0); 2 of 2 have one",
        "subject",
        "gold A:",
        "A. oak",
    )
    assert all(row in text for row in rows)


def test_notes_are_part_of_the_description_and_are_not_logged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    golds = [{"id": n, "question": f"{n}?", "gold": gold} for n, gold in enumerate((1, "x", 3))]
    told = described(tmp_path, capsys, *golds)
    assert told["kinds"] == {"number": 2, "text": 1}
    assert len(told["notes"]) == 1
    assert "own.jsonl:2: gold: got 'x'" in told["notes"][0]
    assert caplog.records == []


@pytest.mark.parametrize("task", ["sample", "notes", "chain", "facts"])
def test_built_in_tasks_are_described(task: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tasks", task]) == 0
    assert "[user]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"id": 1, "question": "?", "choices": ["oak", "elm", "fir"], "gold": 1}, "own.jsonl:1: gold: got '1'"),
        ({"id": 1, "question": "?", "choices": ["oak"], "gold": 1}, "own.jsonl:1: choices: got"),
    ],
)
def test_a_file_that_is_not_understood_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], record: dict[str, Any], expected: str
) -> None:
    assert main(["tasks", write(tmp_path / "own.jsonl", [record])]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert expected in output.err
    assert output.err.count("\n") == 1
