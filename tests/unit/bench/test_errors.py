"""`python -m benchmarks errors`: its chains, what it refuses, and a small run that is continued."""

from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.errors.settings import ErrorsBenchSettings
from benchmarks.errors.topologies import FORMS, chain_topology
from latentmas_ray.report.runs import load_run
from latentmas_ray.tasks import load_questions
from latentmas_ray.topology import corrupt_one


@pytest.mark.parametrize("task", ["notes", "chain", "facts"])
@pytest.mark.parametrize("between", [0, 3])
def test_the_first_agent_of_a_chain_is_told_wrongly(task: str, between: int) -> None:
    topology = chain_topology(task, between)
    assert len(topology.agents) == between + 2
    corrupted = corrupt_one(topology, load_questions(task, 12))
    assert {one.corruption.agent for one in corrupted if one.corruption} == {"first"}
    assert topology.answering_agent.name == "last"


def test_text_runs_without_a_guard_in_each_chain() -> None:
    cells = list(ErrorsBenchSettings(folder="x", tasks=("notes",), between=(0, 2)).cells())
    assert [(cell.method, cell.guard, cell.between) for cell in cells] == [
        (method, guard, between)
        for between in (0, 2)
        for method, guard in (("text", "off"), ("latent", "off"), ("latent", "drop"))
    ]
    assert len({cell.folder for cell in cells}) == 6


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--tasks", "sample"], f"--tasks: got 'sample'; it must be some of {', '.join(FORMS)}"),
        (["--guards", "off,off"], "--guards: got 'off,off'; it must be different values"),
        (["--guards", "loud"], "--guards: got 'loud'; it must be some of off, warn"),
        (["--between", "17"], "--between: got '17'; it must be numbers of agents from 0 to 16"),
        (["--document", "none.md"], "--document: got 'none.md'; it must be a Markdown file"),
    ],
)
def test_what_means_nothing_is_refused(
    flags: list[str], expected: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["errors", str(tmp_path / "runs"), *flags]) == 2
    assert expected in capfd.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_small_run_writes_its_table_and_is_continued(tmp_path: Path) -> None:
    document, folder = tmp_path / "errors.md", tmp_path / "runs"
    document.write_text("# Errors\n")
    sizes = ["--limit", "6", "--batch-size", "6", "--latent-steps", "1", "--max-new-tokens", "40"]
    run = ["errors", str(folder), "--tasks", "notes", "--guards", "off", "--document", str(document), *sizes]
    assert main([*run, "--between", "0"]) == 0
    rows = (folder / "notes-latent-guard-off-between-0" / "memory-corrupted" / "results.jsonl").stat()
    assert main([*run, "--between", "0,1"]) == 0
    again = (folder / "notes-latent-guard-off-between-0" / "memory-corrupted" / "results.jsonl").stat()
    assert (again.st_mtime_ns, again.st_ino) == (rows.st_mtime_ns, rows.st_ino)
    text = document.read_text()
    lines = [line.split(" | ") for line in text.splitlines() if line.startswith(("| 0 |", "| 1 |"))]
    assert [(line[0], line[1]) for line in lines] == [
        (f"| {between}", agents) for between in (0, 1) for agents in ("text", "latent, guard off")
    ]
    assert text.count("<!-- errors of tiny") == 1
    assert (tmp_path / "errors_tiny.png").stat().st_size > 1000
    found = load_run(folder / "notes-latent-guard-off-between-0" / "memory-corrupted")
    assert {one.adoption.agent for one in found.answers if one.adoption} == {"first"}
