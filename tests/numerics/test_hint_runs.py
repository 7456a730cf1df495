"""`latentmas eval --abstractions` from start to end, with the embedded model: hints as text and as memory, own ones and
those of the task, all controls, and what other commands make of the folder."""

import json
from pathlib import Path
from typing import Any

import pytest

from latentmas_ray import ControlsSummary, LatentMAS
from latentmas_ray.cli.main import main
from latentmas_ray.errors import ConfigError
from latentmas_ray.report.compare import compare_folders
from latentmas_ray.tasks import load_questions
from latentmas_ray.tasks.hints.leaks import has_leak

NUM, HINTS = 4, 2
LOCAL = ["--runtime", "local", "--dtype", "float32", "--limit", str(NUM), "--batch-size", "8", "--max-new-tokens", "40"]
TEAM = ["--task", "chain", "--topology", "abstraction", "--abstractions", str(HINTS)]


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def test_hints_in_text_are_written_read_checked_and_counted(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    folder = tmp_path / "text"
    arguments = ["eval", *TEAM, *LOCAL, "--method", "text", "--trace", "1", "--output", str(folder)]
    assert main(arguments) == 0
    out = capfd.readouterr().out
    assert "hints contain the gold" in out
    assert f"{HINTS} per question (own), 1 answer with each" in " ".join(out.split())
    assert max(map(len, out.splitlines())) <= 80
    questions = {question.id: question for question in load_questions("chain", NUM)}
    rows = rows_of(folder)
    assert [row["id"] for row in rows] == [f"chain-{n}.hint-{m}" for n in range(NUM) for m in range(1, HINTS + 1)]
    for row in rows:
        hint = row["hint"]
        assert hint["source"] == "own"
        assert hint["leaks"] is has_leak(questions[hint["question"]], row["texts"]["planner"])
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["hints"]["num_hints"] == HINTS
    assert summary["hints"]["num_leaks"] == sum(row["hint"]["leaks"] for row in rows)
    assert summary["hints"]["scores"]["num_questions"] == NUM
    assert set(summary["hints"]["scores"]["shares"]) == {"average", "best hint", "best answer", "voted"}

    # The same again is nothing to do; other hints are another run; the grades stay.
    assert main([*arguments, "--resume"]) == 0
    assert rows_of(folder) == rows
    assert main([*arguments, "--resume", "--hints", "oracle"]) == 2
    assert "hints" in capfd.readouterr().err
    assert main(["grade", "--task", "chain", "--results", str(folder / "results.jsonl")]) == 0
    assert main(["inspect", str(folder), "--question", "chain-0.hint-1"]) == 0
    assert "planner" in capfd.readouterr().out

    # Compared with one agent alone: each question once, with the mean over its hints.
    single = tmp_path / "single"
    assert main(["eval", "--task", "chain", "--method", "single", *LOCAL, "--output", str(single)]) == 0
    (pair,) = compare_folders([str(single), str(folder)]).pairs
    assert pair.paired is not None
    assert pair.paired.num_questions == NUM
    assert main(["report", str(single), str(folder), "--output", str(tmp_path / "page.html")]) == 0


def evaluated(method: str, hints: str, controls: str, **more: Any) -> ControlsSummary:
    fields = {"latent_steps": 2} if method == "latent" else {}
    with LatentMAS(
        "tiny",
        task="chain",
        topology="abstraction",
        method=method,  # type: ignore[arg-type]  # the cases name it
        abstractions=HINTS,
        hints=hints,  # type: ignore[arg-type]
        runtime="local",
        dtype="float32",
        limit=NUM,
        batch_size=8,
        max_new_tokens=32,
        **fields,  # type: ignore[arg-type]
        **more,
    ) as mas:
        return mas.evaluate(controls=controls)


@pytest.mark.parametrize(
    ("method", "hints", "controls", "num_read"),
    [
        ("latent", "own", "matched,deranged,prompt-only,latent-only+sink,none,corrupted", 0),
        ("latent", "oracle", "matched,deranged,none", NUM * HINTS),
        ("text", "oracle", "matched,deranged,none", NUM * HINTS),
    ],
)
def test_every_control_of_hints(method: str, hints: str, controls: str, num_read: int) -> None:
    summary = evaluated(method, hints, controls)
    names = controls.split(",")
    assert list(summary.runs) == names
    for name, run in summary.runs.items():
        figures = run.hints  # type: ignore[union-attr]  # without seeds
        assert figures is not None
        assert figures.scores.num_questions == NUM
        assert figures.num_read == (0 if name == "none" else num_read)
    assert set(summary.hint_gains) == {*names} - {"matched"}
    assert all(gain.num_questions == NUM for by_score in summary.hint_gains.values() for gain in by_score.values())
    assert {gain.paired.num_questions for gain in summary.gains if gain.paired} == {NUM}
    if "corrupted" in names:
        assert summary.adoption is not None
    json.dumps(summary.to_json())


def test_several_answers_with_each_hint_are_all_counted(tmp_path: Path) -> None:
    with LatentMAS(
        "tiny",
        task="chain",
        topology="abstraction",
        abstractions=2,
        samples=3,
        latent_steps=1,
        runtime="local",
        **SMALL,
    ) as mas:
        figures = mas.evaluate(output=str(tmp_path / "run")).hints
    assert figures is not None
    assert (figures.num_hints, figures.num_answers, figures.scores.num_questions) == (2, 3, 2)
    votes = [vote["correct"] for row in rows_of(tmp_path / "run") for vote in row["votes"]]
    assert len(votes) == 2 * 2 * 3
    assert figures.scores.shares["average"] == pytest.approx(sum(votes) / len(votes))
    assert 0 < figures.scores.shares["average"] < 1  # at this temperature


SMALL: dict[str, Any] = {"limit": 2, "batch_size": 4, "max_new_tokens": 32, "temperature": 2.0, "dtype": "float32"}


def test_a_hint_in_memory_is_read(tmp_path: Path) -> None:
    """The solver sees no number of the problem: only the memory of the hint has the answer."""
    file = tmp_path / "blind.jsonl"
    records = [
        {
            "id": f"q{number}",
            "question": question.question,
            "kind": "number",
            "gold": question.gold,
            "hints": [f"Notes: {' '.join(question.record['notes'])}"],
        }
        for number, question in enumerate(load_questions("notes", 40))
        if question.kind == "number"
    ]
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    topology = tmp_path / "blind.yaml"
    topology.write_text(
        "name: blind\n"
        "agents:\n"
        '  - {name: expert_1, prompt: "{{ hint }}\\nRepeat the notes.\\n"}\n'
        '  - {name: reader, reads: expert_1, thinks: text, prompt: "Question: {{ question }}\\nAnswer.\\n"}\n'
    )
    with LatentMAS("tiny", task=str(file), topology=str(topology), runtime="local", **BLIND) as mas:
        summary = mas.evaluate(controls="matched,deranged,none")
    shares = {name: run.hints.scores.shares["average"] for name, run in summary.runs.items()}  # type: ignore[union-attr]
    assert shares["matched"] > 0.8 > 0.4 > max(shares["deranged"], shares["none"])
    assert summary.hint_gains["deranged"]["average"].interval[0] > 0.3


BLIND: dict[str, Any] = {
    "abstractions": 1,
    "hints": "oracle",
    "latent_steps": 2,
    "temperature": 0.0,
    "batch_size": 40,
    "max_new_tokens": 48,
}


def test_single_questions_have_no_hints() -> None:
    with (
        LatentMAS("tiny", task="chain", topology="abstraction", abstractions=2, runtime="local") as mas,
        pytest.raises(ConfigError, match="hints are for an evaluation"),
    ):
        mas.ask("Tom has 7 keys. Then Tom loses 2. How many keys has Tom now?")
    with LatentMAS("tiny", task="chain", topology="abstraction", latent_steps=2, runtime="local") as mas:
        answer = mas.ask({"question": "Tom has 7 keys. Then Tom loses 2. How many keys has Tom now?", "gold": "5"})
    assert list(answer.agents) == ["planner", "solver"]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--abstractions", "0"], "--abstractions: got '0'; it must be a whole number from 1 to "),
        (["--abstractions", "-1"], "--abstractions: got '-1'"),
        (["--abstractions", "many"], "--abstractions: got 'many'"),
        (["--abstractions", "2", "--method", "single"], "--abstractions: got '2'; one agent alone gets no hint"),
        (
            ["--abstractions", "2", "--topology", "sequential"],
            "--abstractions: got '2'; it needs a topology of two agents",
        ),
        (["--abstractions", "5", "--hints", "oracle"], "--abstractions: got '5'; question chain-0 has 4 hints"),
        (["--abstractions", "2", "--hints", "oracle", "--task", "sample", "--model", "small"], "--hints: got 'oracle'"),
        (["--abstractions", "2", "--hints", "theirs"], "--hints: got 'theirs'"),
        (["--abstractions", "2", "--method", "text", "--memory", "latent-only"], "--memory: got 'latent-only'"),
        (["--abstractions", "2", "--method", "text", "--controls", "matched,prompt-only"], "--controls: got"),
        (["--abstractions", "2", "--memory", "deranged", "--limit", "1"], "--memory: got 'deranged'"),
    ],
)
def test_bad_input_is_one_line(flags: list[str], expected: str, capfd: pytest.CaptureFixture[str]) -> None:
    base = ["eval", "--task", "chain", "--topology", "abstraction", "--runtime", "local", "--limit", "2"]
    assert main([*base, *flags]) == 2
    err = capfd.readouterr().err.strip()
    assert expected in err
    assert "Traceback" not in err
    assert sum("error" in line for line in err.splitlines()) == 1
