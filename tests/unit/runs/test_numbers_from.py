"""Whose numbers answers have: in every row, counted in summaries and tables, nowhere for tasks that say nothing."""

import json
from dataclasses import replace

import pytest
from rich.console import Console, RenderableType

from latentmas_ray.cli.render.run_tables import seeds_table, summary_table
from latentmas_ray.config import RunConfig
from latentmas_ray.errors import JournalError
from latentmas_ray.runs.multi_seed import SeedRun, summarise_seeds
from latentmas_ray.runs.results import Answer, Summary
from latentmas_ray.runs.rows import decode_row
from latentmas_ray.runs.summary import summarise
from latentmas_ray.tasks.question import NumberSource
from tests.cases.report import make_answer

CONFIG = RunConfig(task="facts")


def answer_with(number: int, source: NumberSource | None) -> Answer:
    return replace(make_answer(number, CONFIG), numbers_from=source)


def summary_of(*sources: NumberSource | None) -> Summary:
    answers = [answer_with(number, source) for number, source in enumerate(sources)]
    return summarise(answers, [], config=CONFIG, seconds=1.0)


def shown(table: RenderableType) -> str:
    console = Console(width=120)
    with console.capture() as captured:
        console.print(table)
    return " ".join(captured.get().split())


def test_a_row_has_it_and_is_read_back() -> None:
    answer = answer_with(0, "other")
    row = answer.to_row()
    assert row["numbers_from"] == "other"
    assert decode_row(json.dumps(row).encode(), "results.jsonl:1") == answer
    for damaged in ("others", 3, ["own"]):
        with pytest.raises(JournalError, match="not a row of results"):
            decode_row(json.dumps(row | {"numbers_from": damaged}).encode(), "results.jsonl:1")


def test_rows_and_tables_of_other_tasks_have_no_word_of_it() -> None:
    row = answer_with(0, None).to_row()
    assert "numbers_from" not in row
    assert decode_row(json.dumps(row).encode(), "results.jsonl:1").numbers_from is None
    summary = summary_of(None, None)
    assert summary.numbers_from == {}
    assert "numbers from" not in shown(summary_table(summary))
    old = summary.to_json()
    del old["numbers_from"]
    assert Summary.from_json(old) == summary


def test_a_summary_counts_them() -> None:
    summary = summary_of("own", "other", "own", "none")
    assert summary.numbers_from == {"own": 2, "other": 1, "both": 0, "none": 1}
    assert Summary.from_json(json.loads(json.dumps(summary.to_json()))) == summary
    text = shown(summary_table(summary))
    assert "numbers from own notes 2, notes of the other question 1, none 1, of 4 answers" in text


def test_seeds_are_counted_together() -> None:
    runs = {}
    for seed in (1, 2):
        answers = [answer_with(0, "own"), answer_with(1, "both")]
        runs[seed] = SeedRun(summarise(answers, [], config=CONFIG, seconds=1.0), answers)
    summary = summarise_seeds(CONFIG, runs)
    assert summary.numbers_from == {"own": 2, "other": 0, "both": 2, "none": 0}
    assert "own notes 2, both 2, of 4 answers" in shown(seeds_table(summary))
