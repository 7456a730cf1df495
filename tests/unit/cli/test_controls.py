"""`latentmas eval --controls`: what memory is worth, on the embedded model; and what the pages say about it."""

import json
from pathlib import Path

import pytest

from latentmas_ray.cli.main import main
from latentmas_ray.cli.options import with_controls

NOTES = ["--task", "notes", "--topology", "hierarchical", "--latent-steps", "2", "--temperature", "0"]
LOCAL = ["--runtime", "local", "--limit", "20", "--batch-size", "20", "--max-new-tokens", "40"]


def test_controls_without_a_value_are_the_default_ones() -> None:
    default = "--controls=matched,deranged,none"
    assert with_controls(["eval", "--controls"]) == ["eval", default]
    assert with_controls(["eval", "--controls", "--json"]) == ["eval", default, "--json"]
    for given in (["--controls", "matched,none"], ["--controls=matched,none"], ["--memory", "none"]):
        assert with_controls(given) == given


def test_gains_are_printed_stored_and_shown(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    controls = "matched,deranged,none,corrupted"
    assert main(["eval", *NOTES, *LOCAL, "--controls", controls, "--output", "run"]) == 0
    out, err = capfd.readouterr()
    assert "system gain G" in out
    assert "pairing gain P" in out
    assert "to deranged" in out
    assert "wrong fact: adopted in " in out
    assert max(map(len, out.splitlines())) <= 80
    assert [line for line in err.splitlines() if line.startswith("memory ")] == [
        f"memory {name}" for name in ("matched", "deranged", "corrupted", "none")
    ]
    stored = json.loads(Path("run/summary.json").read_text())
    gains = {gain["control"]: gain["paired"] for gain in stored["gains"]}
    assert gains["deranged"]["interval"][0] > 0.2  # memory carries the answer
    assert gains["none"]["interval"][0] > 0.2
    assert stored["adoption"]["adopted"] > stored["adoption"]["right"]
    assert stored["adopted_anyway"] < stored["adoption"]["adopted"]
    rows = [json.loads(line) for line in Path("run/memory-corrupted/results.jsonl").read_text().splitlines()]
    assert {row["adoption"]["outcome"] for row in rows} <= {"adopted", "right", "neither"}
    assert {row["adoption"]["agent"] for row in rows} <= {"expert_1", "expert_2", "expert_3"}

    assert main(["compare", "run"]) == 0
    compared = capfd.readouterr().out
    assert "pairing gain P" in compared
    assert "loss to a wrong fact" in compared
    assert main(["report", "run"]) == 0
    page = Path("report.html").read_text()
    assert "system gain G (over no memory)" in page
    assert "one agent told wrongly" in page
    capfd.readouterr()

    # Grading again keeps what became of the wrong facts.
    results = "run/memory-corrupted/results.jsonl"
    assert main(["grade", "--task", "notes", "--results", results, "--output", "again.jsonl"]) == 0
    assert [json.loads(line) for line in Path("again.jsonl").read_text().splitlines()] == rows

    # A run without controls says how to get them.
    assert main(["compare", "run/memory-matched", "run/memory-corrupted"]) == 0
    assert "no gain G or P is shown, without runs with other memory: run latentmas" in capfd.readouterr().out
    assert main(["report", "run/memory-matched"]) == 0
    assert "is not measured for latent: run latentmas eval with --controls" in Path("report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--controls", "matched,other"], "--controls: got 'matched,other'; it must be matched and at least one other"),
        (["--controls", "--method", "single"], "--controls: got 'matched,deranged,none'; method single hands over no"),
        (["--controls", "--memory", "none"], "it cannot be used with --memory none"),
        (
            ["--memory", "corrupted", "--method", "single"],
            "--memory: got 'corrupted'; one agent alone hands nothing on",
        ),
        (["--memory", "corrupted", "--task", "sample", "--topology", "sequential"], "has no wrong version"),
    ],
)
def test_what_means_nothing_is_one_line(arguments: list[str], expected: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--runtime", "local", *arguments]) == 2
    (line,) = [line for line in capfd.readouterr().err.splitlines() if not line.startswith("note: ")]
    assert expected in line
