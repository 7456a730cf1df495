"""`latentmas report` on the command line."""

from pathlib import Path

import pytest

from latentmas_ray.cli.main import main
from tests.cases.report import PageParts, write_simple_run


def test_it_writes_one_file_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [str(write_simple_run(tmp_path / name, method=name)) for name in ("single", "text")]
    page = tmp_path / "page.html"
    assert main(["report", *folders, "--output", str(page)]) == 0
    assert f"{page}: 2 runs, " in capsys.readouterr().out
    assert PageParts(page.read_text()).sections == ["results", "time", "confusion", "questions"]
    assert sorted(found.name for found in tmp_path.iterdir()) == ["page.html", "single", "text"]


def test_published_cells_can_be_left_out(tmp_path: Path) -> None:
    folder = write_simple_run(tmp_path / "run", task="gsm8k", model="Qwen/Qwen3-4B")
    page = tmp_path / "page.html"
    for option, is_there in (("--published", True), ("--no-published", False)):
        assert main(["report", str(folder), "--output", str(page), option]) == 0
        assert ("2511.20639" in PageParts(page.read_text()).text) is is_there


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["none"], "run: got 'none'; there is no such folder"),
        (["run", "run/"], "run: got 'run/'; it is given twice"),
        (["run", "--output", "page.pdf"], "--output: got 'page.pdf'; it must be a file that ends in .html"),
        (["run", "s3://bucket/run"], "run: got 's3://bucket/run'; it must be a folder on this machine"),
        (["run", "x" * 300], "it cannot be read: File name too long"),
        (["run", "--output", f"{'x' * 300}.html"], "it cannot be written: File name too long"),
        (["run", "--output", "no/page.html"], "--output: got 'no/page.html'; its folder must exist"),
    ],
)
def test_mistakes_are_told_in_one_line(
    arguments: list[str],
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_simple_run(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    assert main(["report", *arguments]) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert len(error.splitlines()) == 1


def test_a_page_that_cannot_be_written_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(path: Path, content: bytes) -> None:
        raise FileNotFoundError(2, "No such file or directory", str(path))

    monkeypatch.setattr("latentmas_ray.runs.folder.write_atomically", refuse)
    run, page = write_simple_run(tmp_path / "run"), tmp_path / "page.html"
    assert main(["report", str(run), "--output", str(page)]) == 2
    assert (
        capsys.readouterr().err == f"error: --output: got '{page}'; it cannot be written: No such file or directory\n"
    )
