"""Convergence of thoughts in rows, summaries, tables, notes and reports."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from latentmas_ray.cli.render.convergence import repetition_note_of, repetition_notes
from latentmas_ray.cli.render.run_tables import summary_table
from latentmas_ray.config import RunConfig
from latentmas_ray.engine.diagnostics.convergence import ThoughtConvergence
from latentmas_ray.errors import JournalError
from latentmas_ray.report import load_runs
from latentmas_ray.report.html.groups import make_groups
from latentmas_ray.report.html.headline import make_headline
from latentmas_ray.runs.results import Answer, Summary
from latentmas_ray.runs.rows import decode_row
from latentmas_ray.runs.summary import summarise
from tests.cases.report import make_answer, write_run

CONFIG = RunConfig(task="sums", method="latent", max_new_tokens=64)
REPEATS = ThoughtConvergence.of([0.7, 0.93, *[1.0] * 7], thoughts=10, steps=10)
MOVES = ThoughtConvergence.of([0.7, 0.3], thoughts=3, steps=3)
TOGETHER = ThoughtConvergence.of([0.7, 0.93, *[1.0] * 7], thoughts=10, steps=6, allowed_steps=10)


def thought(number: int, convergence: ThoughtConvergence) -> Answer:
    answer = make_answer(number, CONFIG)
    planner = replace(answer.agents["planner"], latent_steps=convergence.steps, convergence=convergence)
    return replace(answer, agents={**answer.agents, "planner": planner})


def shown(table: RenderableType) -> str:
    console = Console(width=140)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def summary_of(*answers: Answer) -> Summary:
    return summarise(answers, [], config=CONFIG, seconds=1.0)


@pytest.mark.parametrize("convergence", [REPEATS, MOVES, TOGETHER])
def test_a_row_says_how_thoughts_converged(convergence: ThoughtConvergence) -> None:
    answer = thought(0, convergence)
    row = json.loads(json.dumps(answer.to_row()))
    assert row["convergence"]["planner"]["cosines"] == list(convergence.short_cosines)
    assert row["convergence"]["planner"]["last_cosine"] == convergence.last_cosine
    assert row["convergence"]["planner"]["repeats_from"] == convergence.repeats_from()
    assert row["tokens"]["agents"]["planner"]["latent"] == convergence.steps
    assert decode_row(json.dumps(row).encode(), "results.jsonl:1") == answer


def test_rows_without_it_are_read_and_damaged_ones_are_not() -> None:
    row = thought(0, REPEATS).to_row()
    found = row.pop("convergence")
    answer = decode_row(json.dumps(row).encode(), "results.jsonl:1")
    assert answer.agents["planner"].convergence is None
    assert summary_of(answer).convergence == {}
    for wrong in ([0.1] * 11, ["x"], None):
        damaged = {**row, "convergence": {"planner": {**found["planner"], "cosines": wrong}}}
        with pytest.raises(JournalError):
            decode_row(json.dumps(damaged).encode(), "results.jsonl:1")


def test_a_summary_has_means_by_step_and_survives_its_file() -> None:
    summary = summary_of(thought(0, REPEATS), thought(1, MOVES))
    stats = summary.convergence["planner"]
    assert stats.mean_cosines[:3] == (0.7, 0.615, 1.0)
    assert (stats.num_questions, stats.num_repeating, stats.repeats_from) == (2, 1, 3)
    assert Summary.from_json(json.loads(json.dumps(summary.to_json()))) == summary
    before = {name: value for name, value in summary.to_json().items() if name != "convergence"}
    assert Summary.from_json(before).convergence == {}


def test_repeating_thoughts_are_told_without_a_guard() -> None:
    run = summary_of(thought(0, REPEATS), thought(1, MOVES))
    (line,) = repetition_notes([run, run])
    assert line == (
        "note: thoughts of planner repeat from step 3 on (1 of 2 questions); --latent-steps auto stops there"
    )
    assert list(repetition_notes([summary_of(thought(0, MOVES))])) == []
    assert list(repetition_note_of(thought(0, REPEATS))) == [line.replace("1 of 2 questions", "1 of 1 question")]
    assert list(repetition_notes([summary_of(thought(0, TOGETHER))])) == []  # they cost nothing
    assert "planner 0.6500 (repeats from step 3 on in 1 of 2)" in shown(summary_table(run))


def test_saved_steps_are_told() -> None:
    table = shown(summary_table(summary_of(thought(0, TOGETHER))))
    assert "steps saved" in table
    assert "40 %: 6 of 10 per question" in table


def test_the_report_tells_repeating_thoughts(tmp_path: Path) -> None:
    write_run(tmp_path / "run", [thought(0, REPEATS), thought(1, REPEATS)], config=CONFIG)
    (group,) = make_groups([load_runs(tmp_path / "run")])
    told = make_headline(group)[-1]
    assert told.startswith("In latent, thoughts of planner repeat from step 3 on (2 of 2 questions): ")
