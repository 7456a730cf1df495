"""The HTML report of runs with several seeds."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from latentmas_ray import RunConfig
from latentmas_ray.engine.diagnostics.trace import Alarm
from latentmas_ray.errors import JournalError
from latentmas_ray.report import load_runs
from latentmas_ray.runs.multi_seed import SeedRun, summarise_seeds
from latentmas_ray.runs.results import Failure
from tests.cases.report import check_numbers, make_answer, parts_of, write_run, write_simple_run


def test_numbers_over_seeds_are_those_of_their_summary_json(tmp_path: Path) -> None:
    folder = tmp_path / "seeded"
    for seed, right in ((1, "1100"), (2, "1110")):
        write_simple_run(folder / f"seed-{seed}", right, method="latent", latent_steps=4, seed=seed)
    runs = load_runs(folder)
    assert all(run.summary for run in runs)
    by_seed = {run.config.seed: SeedRun(run.summary, run.answers) for run in runs if run.summary}
    (folder / "summary.json").write_text(json.dumps(summarise_seeds(runs[0].config, by_seed).to_json()))
    parts = parts_of([folder])
    assert check_numbers(parts, {"r0": folder}) >= {"accuracy", "accuracy_half_width", "runs.1.hand_overs.0.num_bytes"}
    assert "2 seeds" in parts.text
    assert parts.data("index")["groups"][0]["runs"] == ["r0s1", "r0s2"]


def test_the_page_says_which_figures_are_totals_over_seeds(tmp_path: Path) -> None:
    config = RunConfig(task="sums", method="latent")
    for seed in (1, 2):
        config_of_seed = config.model_copy(update={"seed": seed})
        answer = make_answer(0, config_of_seed)
        planner = replace(answer.agents["planner"], alarms=(Alarm(kind="norm", step=2, value=9.0, limit=4.0),))
        answer = replace(answer, agents={**answer.agents, "planner": planner})
        failures = [Failure(id="q1", agent="judger", error="lost")]
        write_run(tmp_path / f"seed-{seed}", [answer], config=config_of_seed, failures=failures)
    parts = parts_of([tmp_path])
    assert "2 failed" in parts.text
    assert "2 with alarms" in parts.text
    assert "totals over all seeds" in parts.text
    assert "25.0 s" in parts.text  # 12.5 s each


def test_a_seed_without_answers_is_left_out(tmp_path: Path) -> None:
    write_simple_run(tmp_path / "seed-2", "110", method="latent", seed=2)
    begun = RunConfig(task="sums", method="latent", max_new_tokens=64, seed=1)
    write_run(tmp_path / "seed-1", [], config=begun, is_finished=False)
    parts = parts_of([tmp_path])
    assert "1 of 2 seeds" in parts.text
    assert "66.7 %" in parts.text
    assert 12.0 in [float(number["value"]) for number in parts.numbers]  # output tokens of those with an answer
    assert "time" in parts.sections
    assert "the run is not finished" in parts.text


def test_a_seed_of_which_all_failed_does_not_make_the_others_cheaper(tmp_path: Path) -> None:
    write_simple_run(tmp_path / "seed-1", "11", seed=1)
    lost = RunConfig(task="sums", method="single", max_new_tokens=64, seed=2)
    write_run(tmp_path / "seed-2", [], config=lost, failures=[Failure(id="q0", agent="judger", error="lost")])
    parts = parts_of([tmp_path])
    found = [number for number in parts.numbers if number.get("data-field") == "output_tokens_per_question"]
    assert [float(number["value"]) for number in found] == [12.0]
    assert "1 failed" in parts.text


def test_seeds_of_different_runs_are_refused(tmp_path: Path) -> None:
    for seed in (1, 2):
        write_simple_run(tmp_path / f"seed-{seed}", method="latent", seed=seed, latent_steps=seed)
    with pytest.raises(JournalError, match="latent_steps: got '2'; seed 1 has 1"):
        parts_of([tmp_path])


def test_points_of_one_line_have_the_same_seeds(tmp_path: Path) -> None:
    for steps, seeds in ((5, (1, 2)), (10, (1, 2)), (20, (1, 3))):
        for seed in seeds:
            write_simple_run(tmp_path / f"m{steps}" / f"seed-{seed}", method="latent", latent_steps=steps, seed=seed)
    parts = parts_of([tmp_path / f"m{steps}" for steps in (5, 10, 20)])
    legend = re.search(r"at 5, .* at 10(.*)", parts.text)
    assert legend is not None
    assert "at 20" not in legend[1]
    assert "or over seeds if there are several" in parts.text
