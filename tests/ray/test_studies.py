"""Cells of studies as Ray tasks: once each, after those they need, and over failures, deaths and interruptions."""

import time
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from examples.training.front_loading.__main__ import STUDY
from examples.training.studies.command import Study, study_command
from examples.training.studies.folder import StudyFolder, pack, unpack
from examples.training.studies.on_core import wait_on_core
from examples.training.studies.run import run_cells
from examples.training.studies.table import StudyTable
from tests.cases.studies import cell, count
from tests.ray.actor_cases import wait_until

pytestmark = pytest.mark.usefixtures("cluster")


def test_cells_run_once_and_after_those_they_need(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, "counting")
    cells = [cell("sum", "one", "two"), cell("one"), cell("two", "one", steps=2)]
    said: list[str] = []
    assert run_cells(cells, folder, count, say=said.append) == {}
    assert {name: row.figures["total"] for name, row in folder.rows.items()} == {"one": 1, "two": 3, "sum": 5}
    assert unpack(folder.weights("sum"))["total"] == 5
    assert said[-1].startswith("3/3 cells")
    assert all(row.cpu_seconds >= 0 for row in folder.rows.values())
    before = (tmp_path / "cells.jsonl").read_bytes()
    assert run_cells(cells, folder, count, say=said.append) == {}
    assert (tmp_path / "cells.jsonl").read_bytes() == before


def test_a_cell_that_fails_takes_along_only_those_that_need_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cells = [cell("bad", fails=True), cell("needs", "bad"), cell("also", "needs"), cell("good")]
    study = Study(
        name="counting",
        purpose="Count.",
        make_cells=lambda _: cells,
        function=count,
        make_tables=lambda rows: [StudyTable(title="t", columns=["cell"], rows=[[row.cell] for row in rows])],
    )
    assert study_command(study, [str(tmp_path)]) == 1
    out, err = capfd.readouterr()
    assert "| good |" in out
    assert err.splitlines()[-3:] == [
        "error: bad: RuntimeError: this cell fails",
        "error: needs: it comes after bad",
        "error: also: it comes after needs",
    ]


def test_a_task_whose_process_dies_resumes_from_its_state(tmp_path: Path) -> None:
    (tmp_path / "die").touch()
    folder = StudyFolder(tmp_path / "study", "counting")
    cells = [cell("c", steps=4, dies=str(tmp_path / "die"))]
    assert run_cells(cells, folder, count, save_seconds=0.0, say=lambda _: None) == {}
    row = folder.rows["c"]
    assert (row.figures["total"], row.figures["resumed_at"]) == (4, 2)
    assert folder.state("c") is None


def test_a_cell_resumes_from_the_state_of_an_interrupted_run(tmp_path: Path) -> None:
    """Its CPU seconds are those of both runs."""
    folder = StudyFolder(tmp_path, "counting")
    earlier = count_half(folder)
    assert run_cells([cell("c", steps=4)], folder, count, say=lambda _: None) == {}
    row = folder.rows["c"]
    assert (row.figures["total"], row.figures["resumed_at"]) == (4, 3)
    assert row.cpu_seconds >= earlier


def count_half(folder: StudyFolder) -> float:
    """Leave the state of a cell after three steps and 100 CPU seconds."""
    folder.save_state("c", pack((100.0, {"step": 3, "total": torch.full((1,), 3.0)})))
    return 100.0


class Gate:
    """An actor that answers when a file is there."""

    def wait(self, folder: str) -> str:
        (Path(folder) / "waits").touch()
        while not (Path(folder) / "go").exists():
            time.sleep(0.05)
        return "open"


def hold_cores(gate: Any, folder: str) -> Any:
    """Wait for the gate in a task."""
    return wait_on_core(gate.wait.remote(folder))


def test_a_cell_that_waits_for_its_actors_keeps_its_core(tmp_path: Path) -> None:
    """Ray lends the cores of a task that waits in `ray.get`: then more cells run than there are cores."""
    cores = ray.cluster_resources()["CPU"]
    gate = ray.remote(num_cpus=0)(Gate).remote()
    waited = ray.remote(num_cpus=cores)(hold_cores).remote(gate, str(tmp_path))
    while not (tmp_path / "waits").exists():
        time.sleep(0.05)
    wait_until(lambda: not ray.available_resources().get("CPU"), "that the cores are taken")
    time.sleep(3.0)  # nodes report what they have about once a second
    assert not ray.available_resources().get("CPU")
    (tmp_path / "go").touch()
    assert ray.get(waited) == "open"


@pytest.mark.slow
def test_front_loading_takes_a_minute_at_its_smallest(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """All kinds of cells, tables and the plot; run again, there is nothing left to do."""
    assert study_command(STUDY, [str(tmp_path), "--minute"]) == 0
    out, err = capfd.readouterr()
    assert "34/34 cells" in err
    assert "| union |" in out
    assert "34 cells, seeds 1" in out
    assert {"table.md", "table.json", "plot.png"} <= {path.name for path in tmp_path.iterdir()}
    assert study_command(STUDY, [str(tmp_path), "--minute"]) == 0
    again = capfd.readouterr()
    assert again.out == out
    assert "cells," not in again.err
    assert study_command(STUDY, [str(tmp_path), "--minute", "--questions", "24"]) == 2
    assert "its cell pretrain-none-1 was run with other settings" in capfd.readouterr().err
