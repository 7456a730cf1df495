"""The study of adapters: a whole pass at its smallest size, and its maps in a run."""

from pathlib import Path

import pytest

from examples.training.adapters.__main__ import main
from latentmas_ray import LatentMAS

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cluster")]


def test_a_minute_of_the_study_gives_tables_and_maps_that_runs_use(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "study"
    assert main([str(folder), "--minute"]) == 0
    out = capfd.readouterr().out
    for team in ("tiny → small", "small → tiny"):
        assert f"**{team}: thoughts alone**" in out
        assert f"**{team}: prompts and thoughts**" in out
    before = (folder / "cells.jsonl").read_bytes()
    assert main([str(folder), "--minute"]) == 0
    assert (folder / "cells.jsonl").read_bytes() == before
    capfd.readouterr()
    assert main([str(folder), "--table"]) == 0
    assert capfd.readouterr().out in out
    assert sorted(path.stem for path in (folder / "adapters").iterdir()) == sorted(
        f"{team}-{kind}-1" for team in ("tiny-small", "small-tiny") for kind in ("words", "unseen", "answers", "both")
    )
    with LatentMAS(
        "small",
        models={"answerer": "tiny"},
        task="notes",
        topology="hierarchical",
        runtime="local",
        thoughts="soft",
        translation=str(folder / "adapters" / "small-tiny-words-1.safetensors"),
    ) as mas:
        assert mas.evaluate(limit=2).num_questions == 2
