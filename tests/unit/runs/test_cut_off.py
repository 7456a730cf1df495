"""Texts that were cut off: told per agent in every row, counted in summaries, tables, comparisons and reports."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from latentmas_ray.cli.render.compare_tables import comparison_tables
from latentmas_ray.cli.render.cut_off import cut_off_warning_of, cut_off_warnings
from latentmas_ray.cli.render.run_tables import seeds_table, summary_table, trace_tree
from latentmas_ray.config import RunConfig
from latentmas_ray.engine.turn import CutOff
from latentmas_ray.errors import JournalError
from latentmas_ray.report.compare import compare_folders
from latentmas_ray.runs.multi_seed import SeedRun, summarise_seeds
from latentmas_ray.runs.results import Answer, Summary
from latentmas_ray.runs.rows import decode_row
from latentmas_ray.runs.summary import summarise
from tests.cases.report import make_answer, parts_of, write_run

CONFIG = RunConfig(task="sums", method="text", max_new_tokens=64)


def cut(number: int, *, planner: CutOff = "no", judger: CutOff = "no") -> Answer:
    answer = make_answer(number, CONFIG)
    reasons = {"planner": planner, "judger": judger}
    return replace(answer, agents={name: replace(use, cut_off=reasons[name]) for name, use in answer.agents.items()})


def shown(table: RenderableType) -> str:
    console = Console(width=100)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def summary_of(*answers: Answer) -> Summary:
    return summarise(answers, [], config=CONFIG, seconds=1.0)


def test_a_row_says_of_each_agent_whether_its_text_was_cut_off() -> None:
    answer = cut(0, judger="positions")
    row = answer.to_row()
    assert row["cut_off"] == {"planner": "no", "judger": "positions"}
    assert decode_row(json.dumps(row).encode(), "results.jsonl:1") == answer
    assert answer.is_cut_off
    assert not cut(1).is_cut_off


def test_a_row_without_it_is_still_read() -> None:
    row = cut(0, judger="max_new_tokens").to_row()
    del row["cut_off"]
    answer = decode_row(json.dumps(row).encode(), "results.jsonl:1")
    assert not answer.is_cut_off
    assert "cut_off" not in answer.to_row()
    assert summary_of(answer).num_cut_off is None
    assert summary_of(answer, cut(1, judger="positions")).num_cut_off == 1


@pytest.mark.parametrize("value", ["yes", 3, True, [], {"judger": "yes"}, {"judger": 1}])
def test_a_damaged_flag_is_refused(value: object) -> None:
    row = cut(0).to_row() | {"cut_off": value}
    with pytest.raises(JournalError, match="not a row of results"):
        decode_row(json.dumps(row).encode(), "results.jsonl:1")


def test_the_summary_counts_questions_and_reasons() -> None:
    summary = summary_of(
        cut(0), cut(1, judger="max_new_tokens"), cut(2, planner="positions", judger="max_new_tokens"), cut(3)
    )
    assert summary.num_cut_off == 2
    assert summary.cut_off == {"judger": {"max_new_tokens": 2}, "planner": {"positions": 1}}
    assert Summary.from_json(json.loads(json.dumps(summary.to_json()))) == summary
    text = shown(summary_table(summary))
    assert "2 of 4 questions: judger 2 at max_new_tokens, planner 1 at the model's last position" in " ".join(
        text.split()
    )
    assert "cut off" not in shown(summary_table(summary_of(cut(0))))


def test_a_summary_of_an_older_version_has_no_count() -> None:
    old = summary_of(cut(0)).to_json()
    del old["num_cut_off"], old["cut_off"]
    assert Summary.from_json(old).num_cut_off is None


def test_seeds_are_counted_together() -> None:
    runs = {}
    for seed in (1, 2):
        answers = [cut(0, judger="positions"), cut(1)]
        runs[seed] = SeedRun(summary_of(*answers), answers)
    summary = summarise_seeds(CONFIG, runs)
    assert summary.num_cut_off == 2
    assert "2 of 4 questions: judger 2" in " ".join(shown(seeds_table(summary)).split())


@pytest.mark.parametrize(
    ("num_cut_off", "num_answers", "warns"), [(1, 20, False), (2, 20, True), (1, 19, True), (0, 5, False)]
)
def test_a_warning_from_more_than_one_in_twenty_on(num_cut_off: int, num_answers: int, warns: bool) -> None:
    answers = [cut(number, judger="max_new_tokens" if number < num_cut_off else "no") for number in range(num_answers)]
    lines = list(cut_off_warnings([summary_of(*answers)]))
    assert len(lines) == warns
    assert all(f"{num_cut_off} of {num_answers} questions: judger" in line for line in lines)
    assert all("raise --max-new-tokens" in line and "positions" not in line for line in lines)


def test_one_question_is_told_by_agent() -> None:
    answer = cut(0, planner="positions", judger="max_new_tokens")
    first, second = cut_off_warning_of(answer)
    assert "planner is cut off at the model's last position" in first
    assert "judger is cut off at max_new_tokens; raise --max-new-tokens" in second
    assert not list(cut_off_warning_of(cut(0)))
    assert "cut off at max_new_tokens" in shown(trace_tree(answer))


def test_comparison_and_page_have_the_count(tmp_path: Path) -> None:
    whole, some = tmp_path / "whole", tmp_path / "some"
    write_run(whole, [cut(0), cut(1)], config=CONFIG)
    write_run(some, [cut(0), cut(1, judger="max_new_tokens")], config=CONFIG)
    comparison = compare_folders([str(whole), str(some)])
    assert [run.num_cut_off for run in comparison.runs] == [0, 1]
    assert "B has texts that were cut off in 1 of 2 answers" in shown(comparison_tables(comparison))
    page = parts_of([whole, some])
    assert "1 cut off" in " ".join(page.text.split())
    assert any(
        "cut off at max_new_tokens" in script for name, script in page.scripts.items() if name.startswith("data")
    )
