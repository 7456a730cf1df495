"""The study of the latent protocol as tasks on Ray, at the smallest size."""

import json
from pathlib import Path

import pytest

from examples.training.protocol.export import main as export
from examples.training.protocol.study import STUDY
from examples.training.studies.command import study_command
from latentmas_ray import LatentMAS

pytestmark = pytest.mark.slow


def test_a_minute_of_it_trains_judges_and_exports(
    cluster: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "protocol"
    assert study_command(STUDY, [str(folder), "--minute", "--seeds", "1", "--address", cluster]) == 0
    table = capsys.readouterr().out
    assert "notes, hierarchical: accuracy" in table
    assert "chain, sequential: accuracy" in table
    cells = [json.loads(line)["cell"] for line in (folder / "cells.jsonl").read_text().splitlines()]
    assert {"text-1", "reward-1", "judge-tiny-notes-latent-only", "judge-text-1-chain-none"} <= set(cells)

    assert study_command(STUDY, [str(folder), "--minute", "--seeds", "1", "--address", cluster]) == 0
    assert capsys.readouterr().out == table, "nothing was run again"

    assert export([str(folder), "judge-tiny-notes-none", str(tmp_path / "out")]) == 2
    assert "it must be a finished cell that has weights" in capsys.readouterr().err
    assert export([str(folder), "text-1", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "difference.safetensors").stat().st_size < 2_500_000
    with LatentMAS(str(tmp_path / "out" / "model"), task="notes", runtime="local", latent_steps=1) as system:
        summary = system.evaluate(limit=4)
    assert summary.num_failed == 0
