"""`latentmas eval --task facts` from start to end, with the embedded model, which knows other questions."""

import json
from pathlib import Path

import pytest

from latentmas_ray.cli.main import main

FLAGS = ["--model", "tiny", "--runtime", "local", "--dtype", "float32", "--latent-steps", "2", "--temperature", "0"]


@pytest.mark.parametrize("topology", ["hierarchical", "sequential"])
def test_facts_are_asked_graded_and_counted(tmp_path: Path, topology: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--task", "facts", "--topology", topology, "--memory", "deranged", "--limit", "3", *FLAGS]
    assert main(["eval", *arguments, "--output", str(tmp_path / "run")]) == 0
    assert "numbers from" in capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "run" / "results.jsonl").read_text().splitlines()]
    assert {row["id"] for row in rows} == {"facts-0", "facts-1", "facts-2"}
    for row in rows:
        assert row["numbers_from"] in ("own", "other", "both", "none")
        assert row["correct"] is (row["prediction"] == row["gold"])
        assert row["tokens"]["output"] <= 32
        assert list(row["tokens"]["agents"]) == ["expert_1", "expert_2", "expert_3", "answerer"]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert sum(summary["numbers_from"].values()) == 3
