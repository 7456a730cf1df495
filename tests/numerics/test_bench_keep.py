"""`python -m benchmarks keep` on a few questions: what it runs, what it reads back, what it refuses."""

from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.keep.settings import KeepBenchSettings
from latentmas_ray import load_run

SMALL = ["--questions", "4", "--latent-steps", "1", "--batch-size", "4", "--max-new-tokens", "24", "--by", "reader"]


def test_a_curve_of_two_points_is_continued(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["keep", "--output", str(tmp_path), *SMALL, "--codecs", "none", "--topology", "sequential"]
    assert main([*flags, "--keep", "1"]) == 0
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/results.jsonl")}
    assert stamps, "agents that read one another: every cell is a run"
    assert main([*flags, "--keep", "1,0.25"]) == 0
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps, "what is there is not run again"
    table = (tmp_path / "table.md").read_text()
    assert table.splitlines() == capsys.readouterr().out.splitlines()[-4:]
    assert (tmp_path / "curve.png").stat().st_size > 1000
    whole, evicted = (load_run(tmp_path / f"keep-{name}-none-matched") for name in ("1-prompt", "0.25-reader"))
    assert evicted.summary is not None
    assert evicted.summary.evicted_bytes_per_question > 0
    for one, other in zip(whole.answers, evicted.answers, strict=True):
        assert other.memory_bytes + other.evicted_bytes == one.memory_bytes
        last = [read.num_bytes for read in other.transfers if read.reader == "answerer"]
        assert sum(last) == other.memory_bytes
        assert other == type(other).from_row(other.to_row())


def test_memory_is_computed_once_where_agents_read_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["keep", "--output", str(tmp_path), *SMALL]
    assert main([*flags, "--codecs", "none", "--keep", "1"]) == 0
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}
    assert len(stamps) == 2
    assert main([*flags, "--codecs", "none,int8", "--keep", "1,0.25"]) == 0
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps, "what is there is not run again"
    rows = [line.split(" | ") for line in (tmp_path / "table.md").read_text().splitlines()[2:]]
    assert [(row[0], row[2]) for row in rows] == [
        ("| 1", "none"),
        ("| 0.25", "none"),
        ("| 1", "int8"),
        ("| 0.25", "int8"),
    ]
    fewer = [float(row[4].removesuffix(" ×")) for row in rows]
    assert fewer[0] == 1 < min(fewer[1:])
    assert fewer[3] == max(fewer)
    (tmp_path / "keep-0.25-reader-none-deranged.json").unlink()
    capsys.readouterr()
    assert main([*flags, "--codecs", "none,int8,int4", "--keep", "1,0.25", "--no-run"]) == 0
    shown = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert shown == [rows[0], rows[2], rows[3]], "what is finished, as it was"
    assert not (tmp_path / "keep-0.25-reader-none-deranged.json").exists()
    assert main([*flags, "--seed", "7", "--no-run"]) == 2
    assert "with --no-run it must have finished runs of these settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--keep", "0"], "--keep: got '0.0'; it must be a share: more than 0 and at most 1"),
        (["--keep", "a"], "--keep: got 'a'; it must be shares such as 1,0.5,0.25"),
        (["--by", "me"], "--by: got 'me'; it must be one of prompt, thoughts, reader, random"),
    ],
)
def test_what_cannot_be_is_refused(
    flags: list[str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["keep", "--output", str(tmp_path / "none"), *flags]) == 2
    assert line in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_where_everything_is_kept_nobody_chooses() -> None:
    names = [cell.name for cell in KeepBenchSettings(keep=(1.0, 0.5), codecs=("int8",)).cells()]
    assert names == ["keep-1-prompt-int8", "keep-0.5-prompt-int8", "keep-0.5-reader-int8", "keep-0.5-random-int8"]
