"""`latentmas memory`: what a file holds, at any width, and what it says to files that are none."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from latentmas_ray.cli.main import main
from latentmas_ray.memory import Memory
from tests.cases.memory import make_memory

BRANCHES = {"mathematician": (30, 40), "chemist": (25, 40), "referee": (9, 2), "summary-of-all": (4, 0)}
READS: Mapping[str, Sequence[str]] = {"referee": ["mathematician", "chemist"], "summary-of-all": ["referee"]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "memory.safetensors"


def shown(path: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    assert main(["memory", str(path), *flags]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("columns", ["60", "80", "200"])
def test_whose_it_is_and_what_it_holds(
    path: Path, columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    make_memory(BRANCHES, reads=READS, texts={"critic": "Looks right."}).save(path)
    out = shown(path, capsys)
    flat = " ".join(out.split())
    for told in (
        "test-model", "r0", "What is 6 times 7?", "2 layers, 2 KV heads of 4, float32", "150, 82 latent thoughts",
        "at position 150", "19.2 KB of KV", "referee → summary-of-all", "critic Looks right.", "prompts",
    ):  # fmt: skip
        assert told in flat
    for row in ("mathematician 70 40 0–69 8.96 KB", "chemist 65 40 70–134 8.32 KB", "summary-of-all 4 0 146–149 512 B"):
        assert row in flat
    assert "…" not in out
    assert max(map(len, out.splitlines())) <= int(columns)


def test_recompute_inputs_only(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_memory({"planner": (3, 2), "critic": (0, 0)}).save(path, kv=False)
    out = shown(path, capsys)
    assert "recompute inputs only" in out
    assert "planner → critic" in out
    assert "none" in out


def test_large_numbers_are_whole_at_sixty_columns(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    name = "an-agent-with-a-name-of-sixty-four-characters-which-is-the-most-1"
    make_memory({"first": (100_000, 23_456), name: (12_345, 6)}).save(path)
    out = shown(path, capsys)
    for told in ("123,456", "23,456", "0–123455", "123456–135806", "15.8 MB", "1.58 MB"):
        assert told in out
    assert max(map(len, out.splitlines())) <= 60


def test_shared_and_deep_trees_stay_short(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"{side}{level}" for level in range(10) for side in "ab"]
    reads = {name: [f"{side}{int(name[1:]) - 1}" for side in "ab"] for name in names[2:]}
    make_memory(dict.fromkeys(names, (1, 0)), reads=reads).save(path)
    out = shown(path, capsys)
    assert len(out.splitlines()) < 70
    assert "… → " in out


def test_as_json(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_memory(BRANCHES, reads=READS, texts={"critic": "Ωmega \udcff"}).save(path)
    row = json.loads(shown(path, capsys, "--json"))
    assert row["reads"] == ["summary-of-all"]
    assert row["agents"]["referee"] == {
        "reads": ["mathematician", "chemist"],
        "num_tokens": 11,
        "num_latent_thoughts": 2,
        "positions": [135, 146],
        "num_bytes": 1408,
    }
    assert (row["model"], row["weights_revision"], row["has_kv"]) == ("test-model", "r0", True)
    assert row["texts"] == {"critic": "Ωmega \udcff"}
    assert row["num_positions"] == row["num_tokens"] == 150


def test_texts_alone_and_what_could_drive_a_terminal(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wild = "\x1b[2J \udcff [red]"
    Memory(model=wild, question=wild, reads=(), segments={}, texts={"judge": wild}).save(path)
    out = shown(path, capsys)
    assert "\x1b" not in out
    assert out.count("[red]") == 3
    assert json.loads(shown(path, capsys, "--json"))["weights_revision"] is None


def test_bad_files_are_told_in_one_line(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_memory({"planner": (1, 1)}).save(path)
    content = path.read_bytes()
    cut, other, text = (path.with_name(name) for name in ("cut", "other", "text"))
    cut.write_bytes(content[:-1])
    save_file({"weight": torch.zeros(1)}, other)
    text.write_text("hello")
    for file, told in (
        (cut, "altered or cut short"),
        (other, "not of working memory"),
        (text, "not a safetensors file"),
        (path.parent, "directory"),
        (path.with_name("missing"), "no such file"),
    ):
        assert main(["memory", str(file)]) == 2
        captured = capsys.readouterr()
        (line,) = captured.err.splitlines()
        assert line.startswith(f"error: memory file: got '{file}'")
        assert told in line
        assert captured.out == ""
