"""A question that cannot fit the model's positions, through the whole of a run in one process."""

import json
from pathlib import Path

import pytest

from latentmas_ray.cli.main import main
from latentmas_ray.engine.session import Session

TOPOLOGY = """\
name: pair
agents:
  - {name: planner, prompt: "{{ question }}", latent_steps: STEPS, close_turn: true}
  - {name: judger, reads: [planner], thinks: text, prompt: "{{ question }}"}
"""
WORDS = "How many beads has Nadia now?"


@pytest.mark.parametrize(
    ("long", "steps", "agent"),
    [
        (33_000, 2, "planner"),  # the prompt alone
        (2_000, 31_000, "planner"),  # the steps after it
        (17_000, 2, "judger"),  # the memory before its prompt
    ],
)
def test_the_others_are_answered_in_one_batch(
    long: int,
    steps: int,
    agent: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    rows = [{"id": name, "question": WORDS, "gold": "8"} for name in ("a", "b", "c")]
    rows[1]["question"] = "bead " * long
    task = tmp_path / "q.jsonl"
    task.write_text("".join(json.dumps(row) + "\n" for row in rows))
    topology = tmp_path / "pair.yaml"
    topology.write_text(TOPOLOGY.replace("STEPS", str(steps)))
    if steps > 2:  # what fits would be thought for minutes
        monkeypatch.setattr(Session, "think", lambda session, num_steps, seen=None, **more: None)
    args = ["--task", str(task), "--topology", str(topology), "--output", str(tmp_path / "run"), "--runtime", "local"]
    assert main(["eval", *args, "--max-new-tokens", "2", "--temperature", "0", "--model", "tiny"]) == 1
    answers = [json.loads(line) for line in (tmp_path / "run" / "results.jsonl").read_text().splitlines()]
    assert sorted((row["id"], row["batch_size"]) for row in answers) == [("a", 2), ("c", 2)]
    (failure,) = [json.loads(line) for line in (tmp_path / "run" / "failures.jsonl").read_text().splitlines()]
    assert (failure["id"], failure["agent"]) == ("b", agent)
    assert "model tiny has 32768: use " in failure["error"]
    assert f"b ({agent}): " in capfd.readouterr().err
