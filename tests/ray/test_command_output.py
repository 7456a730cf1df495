"""What the commands print and write on the embedded model.

The same command as a process of its own, which starts its own Ray, is in `test_command_interrupted.py`.
"""

import json
from pathlib import Path

import pytest

from latentmas_ray.cli.main import main
from tests.ray.command_cases import PAIR, QUESTION, lines_unlike, read_rows

SHORT = ["--latent-steps", "3", "--max-new-tokens", "5", "--temperature", "0"]


@pytest.fixture
def pair(tmp_path: Path) -> str:
    (tmp_path / "pair.yaml").write_text(PAIR)
    return str(tmp_path / "pair.yaml")


@pytest.mark.slow  # `test_parity.py` compares the answers
def test_ask_prints_the_same_answer_from_actors_and_from_one_process(
    cluster: None, pair: str, capfd: pytest.CaptureFixture[str]
) -> None:
    # In bfloat16 the number of torch's threads may decide a token.
    ask = ["ask", QUESTION, "--topology", pair, *SHORT, "--dtype", "float32", "--json", "--runtime"]
    told = {}
    for runtime, placement in (("local", []), ("ray", ["--placement", "colocate"])):
        assert main([*ask, runtime, *placement]) == 0
        out, err = capfd.readouterr()
        assert lines_unlike(["warning: the text of judger is cut off"], err.splitlines()) == []
        told[runtime] = json.loads(out)
    local, on_actors = told["local"], told["ray"]
    assert on_actors["answer_token_ids"] == local["answer_token_ids"]
    assert on_actors["tokens"] == local["tokens"]
    assert on_actors["tokens"]["agents"]["planner"]["latent"] == 3


def test_eval_writes_its_files_and_prints_the_summary(
    tmp_path: Path, pair: str, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    flags = ["--topology", pair, *SHORT, "--limit", "3", "--batch-size", "2", "--runtime", "local"]
    assert main(["eval", *flags, "--output", str(output), "--json"]) == 0
    out, err = capfd.readouterr()
    *lines, last = err.splitlines()
    assert lines_unlike(["latent: ", "warning: "], lines) == []
    assert last.startswith(f"results: {output}; next: ")
    summary = json.loads(out)
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
    assert main(["eval", *flags, "--output", str(output), "--resume"]) == 0
    assert "3 already done" not in capfd.readouterr().err  # nothing was left to do, so nothing was started
    assert read_rows(output) == rows


def test_demo_compares_the_three_methods_and_a_control(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--runtime", "local", "--limit", "2", "--latent-steps", "3", "--max-new-tokens", "4"]) == 0
    out = capfd.readouterr().out
    table = out.partition("Three experts")[0]
    methods = [line.strip().split("  ")[0] for line in table.splitlines()]
    rows = ("single", "text", "latent", "deranged")
    assert [name for name in methods if name in rows] == list(rows)
    for title in ("accuracy", "output tokens", "latent steps", "time", "memory"):
        assert title in out
