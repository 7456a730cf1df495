"""The published benchmarks: the table, the conversion of rows, and loading from the hub with its errors."""

import importlib
import json
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from latentmas_ray.errors import TaskError
from latentmas_ray.sandbox import find_obstacle
from latentmas_ray.tasks import BENCHMARKS, find_benchmark, grade, load_questions, question_from, task_max_new_tokens
from latentmas_ray.tasks.hub import hub_records

needs_datasets = pytest.mark.skipif(find_spec("datasets") is None, reason="datasets (extra eval) is not here")

# Rows of the form that each dataset has, with questions of our own.
ROWS: dict[str, dict[str, Any]] = {
    "gsm8k": {"question": "How many?", "answer": "600 + 434 = <<600+434=1034>>1034\n#### 1,034"},
    "aime2024": {"id": 60, "problem": "Find it.", "solution": "", "answer": "025", "url": "", "year": "2024"},
    "aime2025": {"id": "0", "problem": "Find it.", "answer": "70"},
    "gpqa_diamond": {
        "Record ID": "rec1",
        "Question": "Which? ",
        "Correct Answer": "Iron\n",
        "Incorrect Answer 1": "Gold",
        "Incorrect Answer 2": "Tin",
        "Incorrect Answer 3": "Lead",
    },
    "arc_easy": {
        "id": "M_1",
        "question": "Which one?",
        "choices": {"text": ["air", "ice", "fog"], "label": ["1", "2", "3"]},
        "answerKey": "2",
    },
    "arc_challenge": {
        "id": "M_2",
        "question": "Which one?",
        "choices": {"text": ["a cat", "a dog", "an ant", "a bee", "an eel"], "label": ["A", "B", "C", "D", "E"]},
        "answerKey": "E",
    },
    "medqa": {
        "question": "What next?",
        "answer": "Rest",
        "options": {"A": "Surgery", "B": "Rest", "C": "Tests", "D": "Nothing"},
        "meta_info": "step1",
        "answer_idx": "B",
    },
    "mbppplus": {
        "task_id": 2,
        "prompt": "Write a function that doubles.",
        "code": "def double(x):\n    return 2 * x",
        "source_file": "",
        "test_imports": [],
        "test_list": ["assert double(2) == 4"],
        "test": "assert double(3) == 6",
    },
    "humanevalplus": {
        "task_id": "HumanEval/0",
        "prompt": 'def double(x):\n    """ Twice x. """\n',
        "canonical_solution": "    return 2 * x\n",
        "entry_point": "double",
        "test": "def check(candidate):\n    assert candidate(3) == 6\n",
    },
}
RIGHT = {
    "gsm8k": r"\boxed{1034}",
    "aime2024": r"\boxed{25}",
    "aime2025": "The answer is 70.",
    "gpqa_diamond": "Answer: Iron",
    "arc_easy": r"\boxed{\text{B}}",
    "arc_challenge": "Answer: (E)",
    "medqa": "B. Rest",
    "mbppplus": "```python\ndef double(x):\n    return x + x\n```",
    "humanevalplus": "    return x + x\n",
}


def test_the_nine_benchmarks_have_the_published_bounds() -> None:
    assert {one.name: one.max_new_tokens for one in BENCHMARKS} == {
        **dict.fromkeys(("gsm8k", "arc_easy", "arc_challenge"), 2048),
        **dict.fromkeys(("medqa", "mbppplus", "humanevalplus"), 4096),
        "gpqa_diamond": 8192,
        "aime2024": 20_000,
        "aime2025": 20_000,
    }


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("gsm8k", "gsm8k"),
        ("GSM8K", "gsm8k"),
        ("aime24", "aime2024"),
        ("aime2025", "aime2025"),
        ("gpqa-diamond", "gpqa_diamond"),
        ("arc-e", "arc_easy"),
        ("ARC-Challenge", "arc_challenge"),
        ("mbpp+", "mbppplus"),
        ("HumanEval+", "humanevalplus"),
        ("MedQA", "medqa"),
    ],
)
def test_benchmarks_are_found_in_any_spelling(spelling: str, name: str) -> None:
    assert (found := find_benchmark(spelling)) is not None
    assert found.name == name


def test_other_names_are_not_a_benchmark() -> None:
    assert [find_benchmark(name) for name in ("", "mbpp", "gsm8k.jsonl", "sample")] == [None] * 4


@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=lambda one: one.name)
def test_rows_become_questions_that_are_graded(benchmark: Any) -> None:
    if benchmark.kind == "code" and find_obstacle() is not None:
        pytest.skip("no sandbox here")
    question = question_from(benchmark.to_record(ROWS[benchmark.name], 0), index=0)
    assert question.kind == benchmark.kind
    assert question.record["task"] == benchmark.name
    assert grade(question, RIGHT[benchmark.name]).correct is True
    wrong = "```python\ndef double(x):\n    return 7\n```" if benchmark.kind == "code" else r"\boxed{C}"
    assert grade(question, wrong).correct is (question.gold == "C")
    assert task_max_new_tokens([question]) == benchmark.max_new_tokens


def test_the_order_of_gpqas_options_depends_on_the_question_only() -> None:
    benchmark = find_benchmark("gpqa_diamond")
    assert benchmark is not None
    records = [benchmark.to_record({**ROWS["gpqa_diamond"], "Record ID": f"rec{n}"}, n) for n in range(40)]
    assert {record["gold"] for record in records} == {"A", "B", "C", "D"}
    assert all(record["choices"]["ABCD".index(record["gold"])] == "Iron" for record in records)
    assert records[3] == benchmark.to_record({**ROWS["gpqa_diamond"], "Record ID": "rec3"}, 90)


def test_the_bound_is_the_largest_of_the_tasks_and_none_without_a_task() -> None:
    def asked(*tasks: str | None) -> int | None:
        return task_max_new_tokens(
            [question_from({"question": "?", **({"task": task} if task else {})}, index=0) for task in tasks]
        )

    assert asked("gsm8k", "medqa") == 4096
    assert asked("gsm8k", None) is None
    assert asked("my own") is None


@needs_datasets
def test_questions_come_from_a_dataset_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "data").mkdir()
    lines = [json.dumps({**ROWS["gsm8k"], "question": f"How many of {n}?"}) for n in range(5)]
    (tmp_path / "data" / "test.jsonl").write_text("\n".join(lines))
    (tmp_path / "data" / "README.md").write_text(
        "---\nconfigs:\n- config_name: main\n  data_files:\n  - split: test\n    path: test.jsonl\n---\n"
    )
    benchmark = find_benchmark("gsm8k")
    assert benchmark is not None
    local = replace(benchmark, hub_id=str(tmp_path / "data"))
    records = hub_records(local, limit=3)
    assert [record["question"] for record in records] == [f"How many of {n}?" for n in range(3)]
    assert {record["gold"] for record in records} == {"1034"}
    with pytest.raises(TaskError, match="another form"):
        hub_records(replace(local, to_record=find_benchmark("medqa").to_record))  # type: ignore[union-attr]


class StandIn:
    """A fake of the hub's libraries: returns `rows`, or raises `error`."""

    def __init__(self, rows: object = (), error: Exception | None = None) -> None:
        self.rows = rows
        self.error = error

    def HfApi(self) -> "StandIn":  # noqa: N802
        return self

    def is_offline_mode(self) -> bool:
        return False

    def dataset_info(self, *_: object, **__: object) -> None: ...

    def load_dataset(self, *_: object, **__: object) -> object:
        if self.error is not None:
            raise self.error
        return self.rows


@pytest.mark.parametrize(
    ("name", "hub", "expected"),
    [
        ("gpqa", StandIn(error=RuntimeError("It is a gated dataset. You must log in.\nMore")), "is gated: accept its"),
        ("gpqa", StandIn(error=RuntimeError("403 Client Error. (Request ID: 1)\n\nNo.")), "is gated: accept its"),
        ("gsm8k", StandIn(error=RuntimeError("401 Client Error\nMore")), r"cannot be loaded from the hub \(401 Client"),
        ("gsm8k", StandIn(error=TimeoutError()), r"cannot be loaded from the hub \(TimeoutError\)"),
        ("gsm8k", StandIn(rows=[]), "openai/gsm8k has no row in its split test"),
        ("gsm8k", StandIn(rows=[{"question": None, "answer": "#### 1"}]), "another form than expected"),
        (
            "arc_easy",
            StandIn(
                rows=[{"id": "a", "question": "?", "choices": {"text": [""], "label": range(30)}, "answerKey": 29}]
            ),
            "another form than expected",
        ),
    ],
)
def test_a_hub_error_names_the_alternative(
    monkeypatch: pytest.MonkeyPatch, name: str, hub: StandIn, expected: str
) -> None:
    for library in ("datasets", "huggingface_hub"):
        monkeypatch.setitem(sys.modules, library, hub)
    with pytest.raises(TaskError, match=rf"{expected}.*or give its questions as a file: --task FILE\.jsonl") as caught:
        load_questions(name)
    assert "More" not in str(caught.value)


@pytest.mark.parametrize("error", [AttributeError("module 'numpy' has no attribute 'x'"), OSError("libarrow.so")])
def test_a_broken_library_is_not_reported_as_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    (tmp_path / "datasets.py").write_text(f"raise {error!r}")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "datasets", raising=False)
    with pytest.raises(TaskError, match=r"the library datasets does not load here .*--task FILE") as caught:
        load_questions("gsm8k")
    assert str(error) in str(caught.value)


@needs_datasets
@pytest.mark.parametrize("name", ["gsm8k", "gpqa_diamond", "humanevalplus"])
def test_an_unreachable_hub_gives_an_error_that_names_the_alternative(name: str) -> None:
    importlib.import_module("datasets")  # which takes its time on a busy machine
    begin = time.monotonic()
    with pytest.raises(TaskError, match=r"cannot be loaded from the hub .*--task FILE\.jsonl with id") as caught:
        load_questions(name)
    assert caught.value.field == "task"
    assert time.monotonic() - begin < 20


@pytest.mark.skipif(find_spec("datasets") is not None, reason="datasets is here")
def test_without_the_extra_the_error_names_it() -> None:
    with pytest.raises(
        TaskError, match=r"extra eval is not installed: .*--task FILE\.jsonl with id, question and gold"
    ):
        load_questions("gsm8k")
