"""What the commands print and write, as real processes on the embedded model."""

import json
from pathlib import Path

import pytest

from tests.ray.command_cases import PAIR, read_rows, run_command

pytestmark = pytest.mark.slow

SHORT = ["--latent-steps", "3", "--max-new-tokens", "5", "--temperature", "0"]

QUESTION = "Nadia has 5 beads. Then Nadia finds 3 more. How many beads has Nadia now?"


@pytest.fixture
def pair(tmp_path: Path) -> str:
    (tmp_path / "pair.yaml").write_text(PAIR)
    return str(tmp_path / "pair.yaml")


def test_ask_prints_the_same_answer_from_actors_and_from_one_process(pair: str) -> None:
    asked = {}
    for runtime in ("local", "ray"):
        done = run_command(
            "ask", "What is 6 + 7?", "--anyway", "--topology", pair, *SHORT, "--runtime", runtime, "--json"
        )
        assert (done.returncode, done.stderr) == (0, "")
        asked[runtime] = json.loads(done.stdout)
    assert asked["ray"]["answer_token_ids"] == asked["local"]["answer_token_ids"]
    assert asked["ray"]["tokens"] == asked["local"]["tokens"]
    assert asked["ray"]["tokens"]["agents"]["planner"]["latent"] == 3


def test_eval_writes_its_files_and_prints_the_summary(tmp_path: Path, pair: str) -> None:
    output = tmp_path / "run"
    flags = ["--topology", pair, *SHORT, "--limit", "3", "--batch-size", "2", "--runtime", "local"]
    done = run_command("eval", *flags, "--output", output, "--json")
    assert done.returncode == 0
    assert all(line.startswith("latent: ") for line in done.stderr.splitlines())
    summary = json.loads(done.stdout)
    assert summary == json.loads((output / "summary.json").read_text())
    assert summary["num_questions"] == 3
    assert summary["num_failed"] == 0
    assert summary["latent_steps_per_question"] == 3
    rows = read_rows(output)
    assert [row["id"] for row in rows] == ["chain-0", "chain-1", "chain-2"]
    assert summary["output_tokens_per_question"] == sum(row["tokens"]["output"] for row in rows) / 3
    for row in rows:
        assert row["memory_bytes"] == row["agent_memory_bytes"]["planner"] > 0
        assert [transfer["num_bytes"] for transfer in row["transfers"]] == [row["memory_bytes"]]
        assert row["seconds"] > 0
    again = run_command("eval", *flags, "--output", output, "--resume")
    assert again.returncode == 0
    assert "3 already done" not in again.stderr  # nothing was left to do, so nothing was started
    assert read_rows(output) == rows


def test_demo_compares_the_three_methods_and_a_control() -> None:
    done = run_command("demo", "--runtime", "local", "--limit", "2", "--latent-steps", "3", "--max-new-tokens", "4")
    assert done.returncode == 0, done.stderr
    table = done.stdout.partition("Three experts")[0]
    methods = [line.strip().split("  ")[0] for line in table.splitlines()]
    rows = ("single", "text", "latent", "deranged")
    assert [name for name in methods if name in rows] == list(rows)
    for title in ("accuracy", "output tokens", "latent steps", "time", "memory"):
        assert title in done.stdout
