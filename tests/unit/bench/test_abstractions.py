"""`python -m benchmarks abstractions`: its cells, what it refuses, and a small run that is continued."""

from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.abstractions.measure import read_figures
from benchmarks.abstractions.settings import BARE, LATENT_CONTROLS, HintBenchSettings
from latentmas_ray.errors import ConfigError


def test_every_cell_has_the_whole_budget_and_a_folder_of_its_own() -> None:
    settings = HintBenchSettings(folder="x", tasks=("chain",), budget=8, hints=(1, 2, 4, 8), controls_at=2)
    cells = list(settings.cells())
    assert {cell.num_hints * cell.num_answers for cell in cells} == {8}
    assert len({cell.folder for cell in cells}) == len(cells)
    assert cells[0].source == BARE
    assert {cell.num_hints for cell in cells if cell.source == "own"} == {1, 2, 4, 8}
    assert {cell.num_hints for cell in cells if cell.source == "oracle"} == {1, 2, 4}  # the task has four
    controlled = [cell for cell in cells if settings.controls(cell) == LATENT_CONTROLS]
    assert {(cell.source, cell.num_hints) for cell in controlled} == {("own", 2), ("oracle", 2)}


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--tasks", "sample"], "--tasks: got 'sample'; it must be different ones of chain, notes, facts"),
        (["--sources", "own,own"], "--sources: got 'own,own'; it must be different ones of own, oracle"),
        (["--methods", "single"], "--methods: got 'single'; it must be different ones of text, latent"),
        (["--hints", "1,3"], "--hints: got '1,3'; 3 does not divide the budget of 4 answers"),
        (["--hints", "0"], "--hints: got '0'; it must be different numbers of at least 1"),
        (["--controls-at", "3"], "--controls-at: got '3'; it must be one of the numbers of hints, 1,2,4"),
        (["--temperature", "0"], "--temperature: got '0"),
        (["--document", "none.md"], "--document: got 'none.md'; it must be a Markdown file"),
    ],
)
def test_what_means_nothing_is_refused(
    flags: list[str], expected: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["abstractions", str(tmp_path / "runs"), *flags]) == 2
    assert expected in capfd.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"budget: got .*0.*at least 1 answer"):
        HintBenchSettings(folder="x", budget=0)


def test_a_small_run_writes_its_tables_and_is_continued(tmp_path: Path) -> None:
    document, folder = tmp_path / "hints.md", tmp_path / "runs"
    document.write_text("# Hints\n")
    sizes = ["--limit", "2", "--batch-size", "4", "--latent-steps", "1", "--max-new-tokens", "24", "--budget", "2"]
    flags = [
        "abstractions",
        str(folder),
        "--tasks",
        "chain",
        "--sources",
        "oracle",
        "--document",
        str(document),
        *sizes,
    ]
    assert main([*flags, "--methods", "text", "--hints", "2"]) == 0
    results = folder / "chain-oracle-text-2x1-matched" / "results.jsonl"
    before = results.stat()
    assert main([*flags, "--methods", "text", "--hints", "1,2"]) == 0
    assert (results.stat().st_mtime_ns, results.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    text = document.read_text()
    assert text.count("<!-- hints of tiny") == 1
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith(("| no hint", "| oracle, text"))]
    sweep = [row[:3] for row in rows if len(row) == 10]
    assert sweep == [
        *(["| no hint", "1", "2"], ["| no hint", "2", "1"]),
        *(["| oracle, text", "1", "2"], ["| oracle, text", "2", "1"]),
    ]
    assert {row[1] for row in rows if row[1].isalpha()} == {"matched", "deranged", "none"}
    assert (tmp_path / "abstractions_tiny.png").stat().st_size > 1000
    settings = HintBenchSettings(
        folder=str(folder), tasks=("chain",), sources=("oracle",), methods=("text",), budget=2, hints=(1, 2), limit=2
    )
    found = {(one.cell.source, one.cell.num_hints, one.control): one for one in read_figures(settings)}
    one_hint = found["oracle", 1, "matched"].figures
    assert (one_hint.num_answers, one_hint.scores.num_questions) == (2, 2)
    assert found["oracle", 2, "deranged"].over_control["average"].num_questions == 2
    assert found[BARE, 1, "none"].figures.num_hints == 1
