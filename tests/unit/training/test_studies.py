"""What studies share, without Ray: states, the folder, which cells are chosen, intervals, tables, the command line."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from examples.training.studies.cell import CellRun
from examples.training.studies.command import Study, study_command, write_tables
from examples.training.studies.folder import StudyFolder, StudyRow, pack, unpack
from examples.training.studies.intervals import (
    accuracy_over_questions,
    accuracy_over_seeds,
    difference,
    pack_verdicts,
    percent_interval,
)
from examples.training.studies.run import choose_cells
from examples.training.studies.table import StudyTable, cost_line
from latentmas_ray.errors import ConfigError
from tests.cases.studies import cell, count

CELLS = [cell("base"), cell("sft-1", "base"), cell("sft-2", "base"), cell("rl-1", "sft-1")]


def make_tables(rows: Sequence[StudyRow]) -> list[StudyTable]:
    return [StudyTable(title="Totals", columns=["cell", "total"], rows=[[r.cell, r.figures["total"]] for r in rows])]


STUDY = Study(name="counting", purpose="Count.", make_cells=lambda _: CELLS, function=count, make_tables=make_tables)


def filled(path: Path) -> StudyFolder:
    """A folder with the first cell."""
    folder = StudyFolder(path, "counting")
    folder.add(CELLS[0], {"total": 1.0}, pack({"total": torch.ones(1)}), 2.5, "10.0.0.1")
    return folder


def test_a_state_is_saved_when_the_last_one_is_old_enough() -> None:
    kept: list[Any] = []
    for _ in range(3):
        CellRun(CELLS[0], {}, write=kept.append, save_seconds=1e9).save(lambda: "too early")
        CellRun(CELLS[0], {}, write=kept.append, save_seconds=0.0).save(lambda: "due")
        CellRun(CELLS[0], {}, save_seconds=0.0).save(lambda: "no place")
    assert kept == ["due"] * 3


def test_an_interrupted_cell_gives_what_an_undisturbed_one_gives() -> None:
    states: list[Any] = []
    whole = count(CellRun(cell("c", steps=5), {}, write=states.append, save_seconds=0.0))
    for state in states:
        again = count(CellRun(cell("c", steps=5), {}, unpack(pack(state))))
        assert again.figures["total"] == whole.figures["total"] == 5


def test_a_folder_keeps_what_cells_gave(tmp_path: Path) -> None:
    filled(tmp_path).close()
    folder = StudyFolder(tmp_path, "counting")
    row = folder.rows["base"]
    assert (row.seed, row.figures, row.cpu_seconds, row.weights) == (1, {"total": 1.0}, 2.5, "weights/base.pt")
    assert row.node == "10.0.0.1"
    assert unpack(folder.weights("base"))["total"] == 1
    assert {path.name for path in tmp_path.iterdir()} == {"study.json", "cells.jsonl", "weights", "states", ".lock"}


def test_a_finished_cell_has_no_state(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, "counting")
    folder.save_state("base", b"half")
    assert folder.state("base") == b"half"
    folder.add(CELLS[0], {}, None, 1.0)
    assert folder.state("base") is None


def test_a_folder_that_does_not_fit_is_refused_in_one_line(tmp_path: Path) -> None:
    filled(tmp_path / "study").close()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name, study, said in [
        ("study", "rlad", "it is of the study counting"),
        ("other", "counting", "it has files of its own and no study.json"),
        ("file", "counting", "it is a file"),
    ]:
        with pytest.raises(ValueError, match=said) as caught:
            StudyFolder(tmp_path / name, study)
        assert "\n" not in str(caught.value)
    assert (tmp_path / "other" / "notes.txt").read_text() == "mine"
    with pytest.raises(ConfigError, match="there is nothing of the study counting yet"):
        StudyFolder(tmp_path / "none", "counting", lock=False)
    assert not (tmp_path / "none").exists()


def test_a_folder_is_used_by_one_process_at_a_time(tmp_path: Path) -> None:
    folder = filled(tmp_path)
    with pytest.raises(ValueError, match="another run is writing into this folder"):
        StudyFolder(tmp_path, "counting")
    assert StudyFolder(tmp_path, "counting", lock=False).rows.keys() == {"base"}  # tables can be read meanwhile
    folder.close()
    StudyFolder(tmp_path, "counting").close()


@pytest.mark.parametrize("line", ["{", "[1]", '{"cell": "x"}', "null"])
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    filled(tmp_path).close()
    with (tmp_path / "cells.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ConfigError, match=r"cells\.jsonl:2"):
        StudyFolder(tmp_path, "counting")


def test_a_cell_with_other_settings_is_not_taken_for_a_finished_one(tmp_path: Path) -> None:
    folder = filled(tmp_path)
    folder.check_cells(CELLS)
    for other in (cell("base", seed=2), cell("base", steps=7), cell("base", "sft-1")):
        with pytest.raises(ConfigError, match="its cell base was run with other settings"):
            folder.check_cells([other])


def test_weights_that_are_gone_are_named(tmp_path: Path) -> None:
    folder = filled(tmp_path)
    (tmp_path / "weights" / "base.pt").unlink()
    with pytest.raises(ConfigError, match="the weights of base must be there"):
        folder.weights("base")


def test_chosen_cells_bring_those_they_come_after() -> None:
    names = lambda *patterns, finished=(): [one.name for one in choose_cells(CELLS, patterns, finished)]  # noqa: E731
    assert names() == ["base", "sft-1", "sft-2", "rl-1"]
    assert names("rl-1") == ["base", "sft-1", "rl-1"]
    assert names("rl-1", finished=["sft-1"]) == ["rl-1"]
    assert names("sft-*", "base") == ["base", "sft-1", "sft-2"]
    with pytest.raises(ConfigError, match=r"it must match a cell; there are base, sft-1"):
        choose_cells(CELLS, ["sft-3"])


def test_differences_are_paired_by_seed_and_by_question() -> None:
    base = {1: pack_verdicts([True, False, False, False]), 2: "1000", 3: "0100"}
    other = {1: "1100", 2: "1010", 4: "1111"}
    found = difference(base, other)  # seeds 1 and 2
    assert found.over_seeds.mean == pytest.approx(0.25)
    assert found.over_seeds.half_width == pytest.approx(0.0)
    assert found.over_questions.num_questions == 4
    assert found.over_questions.difference == pytest.approx(0.25)
    assert accuracy_over_seeds(base).mean == 0.25
    low, high = accuracy_over_questions(base)
    assert low <= 0.25 <= high
    assert percent_interval(found.over_seeds, signed=True) == "+25.0 ± 0.0"
    assert percent_interval(accuracy_over_seeds({1: "10"})) == "50.0"
    with pytest.raises(ConfigError, match="a seed in common"):
        difference({1: "1"}, {2: "1"})
    with pytest.raises(ValueError, match="different numbers of questions"):
        difference({1: "1", 2: "10"}, {1: "1", 2: "10"})


def test_tables_are_written_as_markdown_and_json(tmp_path: Path) -> None:
    folder = filled(tmp_path)
    text = write_tables(STUDY, folder)
    assert "| base | 1.0 |" in text
    assert "1 cells, seeds 1: 0.00 CPU hours, the longest cell 0.0 minutes" in text
    assert (tmp_path / "table.md").read_text() == text
    document = json.loads((tmp_path / "table.json").read_text())
    assert document["tables"] == [{"title": "Totals", "rows": [{"cell": "base", "total": 1.0}]}]
    assert cost_line([]) == "0 cells, seeds : 0.00 CPU hours, the longest cell 0.0 minutes"
    assert "a\\|b" in StudyTable(title="t", columns=["a|b"], rows=[]).markdown()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--only", "nothing"], "--only: got 'nothing'; it must match a cell"),
        (["--only", "nothing", "--table"], "--only: got 'nothing'; it must match a cell"),
        (["--seeds", "1,x"], "--seeds: got '1,x'"),
        (["--what"], "unrecognized arguments: --what"),
        (["--table"], "there is nothing of the study counting yet"),
        (["--address", "127.0.0.1:1"], "--address: got '127.0.0.1:1'; a Ray cluster must answer there"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str], flags: list[str], said: str) -> None:
    assert study_command(STUDY, [str(tmp_path / "folder"), *flags]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert said in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_the_table_of_what_is_there_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    filled(tmp_path).close()
    assert study_command(STUDY, [str(tmp_path), "--table"]) == 0
    assert "| base | 1.0 |" in capfd.readouterr().out
    assert not (tmp_path / "table.md").exists()
