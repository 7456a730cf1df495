"""The RLAD study's cells, tables, export and bad input, and how a pair is judged through the runtime."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from examples.training.rlad.__main__ import STUDY
from examples.training.rlad.actors.learner import Learner
from examples.training.rlad.export import command_of, export
from examples.training.rlad.judge import Condition, Judge, conditions
from examples.training.rlad.policy import SHAPES, load_policy, save_policy
from examples.training.rlad.settings import MINUTE, JudgeSettings, RladSettings
from examples.training.rlad.study import cells_of, compute, joined, make_cells, parted
from examples.training.rlad.tables import make_tables, plot
from examples.training.rlad.task.prompts import POLICIES, SOLVER
from examples.training.rlad.warm_start import warm_rate
from examples.training.studies.cell import CellRun
from examples.training.studies.command import study_command
from examples.training.studies.folder import StudyFolder, StudyRow, pack, unpack
from latentmas_ray.errors import ConfigError


def _weights(seed: int = 1) -> dict[str, Any]:
    return {role: Learner(role, seed).weights() for role in POLICIES}


def test_every_cell_comes_after_those_whose_weights_it_needs() -> None:
    cells = {cell.name: cell for cell in cells_of(RladSettings(), 3)}
    assert cells["rlad-3"].after == cells["alone-3"].after == ("warm-hinter-3", "warm-solver-3")
    assert cells["judge-3"].after == ("warm-hinter-3", "warm-solver-3", "rlad-3", "alone-3")
    assert all(name in cells for cell in cells.values() for name in cell.after)
    assert json.loads(json.dumps(dict(cells["rlad-3"].settings))) == dict(cells["rlad-3"].settings)


def test_a_warm_start_continues_where_it_was_interrupted() -> None:
    cell = cells_of(MINUTE, 1)[1]
    states: list[Any] = []
    whole = compute(CellRun(cell, {}, write=lambda state: states.append(unpack(pack(state))), save_seconds=0.0))
    again = compute(CellRun(cell, {}, states[4]))
    assert whole.weights is not None
    assert again.figures == whole.figures
    assert again.weights is not None
    assert all(value.equal(again.weights[name]) for name, value in whole.weights.items())


def test_the_rate_rises_and_falls() -> None:
    rates = [warm_rate(step, 200) for step in (0, 19, 99, 150, 199)]
    assert rates == pytest.approx([0.05, 1.0, 1.0, 0.5, 0.02])


def test_weights_of_both_policies_are_one_mapping_and_back() -> None:
    weights = _weights()
    parts = parted(joined(weights))
    assert parts.keys() == weights.keys()
    assert all(value.equal(parts[role][name]) for role, own in weights.items() for name, value in own.items())


def test_a_pair_is_judged_with_text_memory_and_nothing(tmp_path: Path) -> None:
    judge = Judge(tmp_path, {"warm": _weights()}, JudgeSettings(num_questions=3, num_hints=2, num_answers=2), 1)
    pair = Condition(hinter="warm", solver="warm")
    drawn = judge.run(pair, "drawn")
    assert len(drawn.scores["average"]) == 3
    assert drawn.num_hints == 6
    bare = judge.run(Condition(hinter="warm", solver="warm", memory="none"), "drawn")
    assert bare.num_hints == 0
    latent = judge.run(Condition(hinter="warm", solver="warm", method="latent", thoughts="soft"), "greedy")
    assert set(latent.scores["average"]) <= {0.0, 1.0}
    rule = judge.run(Condition(hinter="warm", solver="warm", hints="oracle"), "greedy")
    assert (rule.num_hints, rule.num_leaks) == (3, 0)


def _rows() -> list[StudyRow]:
    """A finished study of two seeds in which the trained pair is right on every problem, and all else on none."""
    rows = []
    for seed in (1, 2):
        right = {"rlad > rlad, text"}
        figures = {
            f"{one.name}: {way}": {
                "scores": {"average": [float(one.name in right)] * 4, "best hint": [1.0] * 4, "best answer": [1.0] * 4},
                "num_hints": 4,
                "num_leaks": 1,
                "output_tokens": 12.5,
            }
            for one in conditions()
            for way in one.ways
        }
        history = [
            {"round": 0, "phase": "propose", "number": 0, "success": 0.5, "kept": 0.25, "bare_success": 0.25},
            {"round": 0, "phase": "solve", "number": 0, "success": 0.75, "kl": 0.0, "entropy": 0.5},
        ]
        for name, kind, given in (
            (f"judge-{seed}", "judge", {"conditions": figures}),
            (f"rlad-{seed}", "rlad", {"history": history}),
        ):
            rows.append(
                StudyRow(
                    cell=name,
                    seed=seed,
                    settings={"kind": kind},
                    after=[],
                    figures=given,
                    cpu_seconds=1.0,
                    weights=None,
                )
            )
    return rows


def test_tables_have_accuracies_differences_and_training(tmp_path: Path) -> None:
    accuracies, differences, training = make_tables(_rows())
    assert "4 held-out problems, mean of 2 seeds" in accuracies.title
    (pair,) = [row for row in accuracies.rows if row[:2] == ["rlad > rlad, text", "greedy"]]
    assert pair[2] == "100.0"
    assert pair[-2] == "25.0"
    names = [str(row[0]) for row in differences.rows]
    assert "trained pair, over the untrained pair" in names
    assert [row[2] for row in differences.rows if row[0] == "trained pair, over the untrained pair"] == ["+100.0"] * 2
    assert training.rows[0][:4] == ["rlad-1", 1, "50.0", "25.0"]
    plot(_rows(), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 0


def test_policies_are_exported_as_model_folders(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path / "study", "rlad")
    cells = {cell.name: cell for cell in cells_of(MINUTE, 1)}
    weights = _weights()
    for role in POLICIES:
        folder.add(cells[f"warm-{role}-1"], {}, pack(weights[role]), 1.0)
    folder.add(cells["rlad-1"], {}, pack(joined(weights)), 1.0)
    folder.close()
    pairs = export(tmp_path / "study", tmp_path / "out")
    assert [pair.name for pair in pairs] == ["warm-1", "rlad-1"]
    assert load_policy("start", SOLVER, pairs[1] / SOLVER).keys() == weights[SOLVER].keys()
    assert f"--models solver={pairs[0]}/solver" in command_of(pairs[0])
    start = argparse.Namespace(start=str(pairs[1]), workers=1, minute=True, seeds=(1,))
    warm = make_cells(start)[0]
    assert compute(CellRun(warm, {})).weights is not None


def test_a_study_begins_at_policies_that_fit_only(tmp_path: Path) -> None:
    for role in POLICIES:
        save_policy(tmp_path / role, SHAPES[SOLVER], _weights()[SOLVER])
    given = argparse.Namespace(start=str(tmp_path), workers=1, minute=True, seeds=(1,))
    with pytest.raises(ConfigError, match=r"^start: .*for the hinter"):
        make_cells(given)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--start", "nowhere"], "--start"),
        (["--workers", "0"], "--workers"),
        (["--only", "sft-*"], "--only"),
        (["--seeds", "1,1"], "seeds"),
    ],
)
def test_bad_input_is_one_line(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert study_command(STUDY, [str(tmp_path / "study"), *flags]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert message in lines[0]
    assert not (tmp_path / "study").exists()


def test_the_folder_of_another_study_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    StudyFolder(tmp_path / "study", "protocol").close()
    assert study_command(STUDY, [str(tmp_path / "study"), "--table"]) == 2
    assert "it is of the study protocol" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="it is of the study protocol"):
        export(tmp_path / "study", tmp_path / "out")
