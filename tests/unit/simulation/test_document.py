"""The command that writes simulated clusters into a document."""

from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.scaling.document import BEGIN, END, PLOT
from latentmas_ray.simulation.table import COLUMNS

DOCUMENT = Path(__file__).parents[3] / "docs" / "scaling.md"
FEW = ["clusters", "--questions", "16", "--nodes", "1,2"]


def test_it_replaces_its_part_and_nothing_else(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    document = tmp_path / "scaling.md"
    document.write_text(f"before\n{BEGIN}old\n{END}after\n")
    for _ in range(2):
        assert main([*FEW, "--document", str(document)]) == 0
    before, _, rest = document.read_text().partition(BEGIN)
    written, _, after = rest.partition(END)
    assert (before, after) == ("before\n", "after\n")
    assert "old" not in written
    assert "--questions 16 --nodes 1,2" in written
    lines = [line for line in written.splitlines() if line.startswith("|")]
    assert lines.count(f"| {' | '.join(COLUMNS)} |") == 3  # one for each topology
    assert len([line for line in lines if line.startswith(("| 1 |", "| 2 |"))]) == 6
    assert (tmp_path / PLOT).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("text", [None, "no such lines\n", END + BEGIN])
def test_a_document_without_the_part_is_refused(
    text: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = tmp_path / "other.md"
    if text is not None:
        document.write_text(text)
    assert main([*FEW, "--document", str(document)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(document) in line


def test_the_document_has_the_part() -> None:
    text = DOCUMENT.read_text()
    assert text.index(BEGIN) < text.index(END)
