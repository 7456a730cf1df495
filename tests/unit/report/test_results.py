"""`latentmas results`: one table of all measured runs, with their gains and the commands that repeat them."""

import json
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from latentmas_ray.cli.main import main
from latentmas_ray.config import RunConfig
from latentmas_ray.config.command import eval_command
from tests.cases.report import write_simple_run

MADE_WITH = {"torch": "2.9.0", "python": "3.12.1", "machine": "a processor, 4 cores", "runtime": "2 actors on 1 node"}


def with_versions(folder: Path, made_with: Mapping[str, str] = MADE_WITH) -> Path:
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps({**summary, "made_with": made_with}))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Folders as they lie around: several tasks, controls, seeds, and some that are no finished runs."""
    top = tmp_path / "runs"
    latent: dict[str, Any] = {"task": "gsm8k", "method": "latent", "latent_steps": 10}
    with_versions(write_simple_run(top / "a" / "matched", "1110", **latent))
    with_versions(write_simple_run(top / "a" / "deranged", "0100", memory="deranged", **latent))
    with_versions(write_simple_run(top / "a" / "single", "1000", task="gsm8k"))
    for seed in (1, 2):
        write_simple_run(top / "b" / "seeds" / f"seed-{seed}", "11", task="notes", seed=seed)
    # The same ids as above, with other questions: they are no controls of one another.
    write_simple_run(top / "c", "11", task="medqa", method="latent", memory="none")
    (top / "broken").mkdir()
    (top / "broken" / "config.yaml").write_text("task: [")
    (top / "broken" / "results.jsonl").write_text("")
    unfinished = write_simple_run(top / "unfinished", "1")
    (unfinished / "summary.json").unlink()
    (top / ".hidden").mkdir()
    (top / ".hidden" / "config.yaml").write_text("task: [")
    return top


def listed(capfd: pytest.CaptureFixture[str], *args: str) -> tuple[dict[str, Any], str]:
    assert main(["results", *args, "--json"]) == 0
    out, err = capfd.readouterr()
    return json.loads(out), err


def test_all_finished_runs_are_listed_and_the_others_named(runs: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found, err = listed(capfd, str(runs))
    rows = {Path(row["folder"]).relative_to(runs).as_posix(): row for row in found["runs"]}
    assert list(rows) == ["a/deranged", "a/matched", "a/single", "c", "b/seeds"]
    assert (rows["b/seeds"]["num_seeds"], rows["b/seeds"]["num_questions"]) == (2, 2)
    assert rows["b/seeds"]["command"].endswith("--max-new-tokens 64 --seeds 1,2")
    assert [Path(one["folder"]).name for one in found["left_out"]] == ["broken", "unfinished"]
    assert "note: left out " in err
    assert "--resume" in err
    matched = rows["a/matched"]
    assert matched["accuracy"] == 0.75
    assert matched["accuracy_interval"][0] < 0.75 < matched["accuracy_interval"][1]
    gains = {gain["kind"]: gain for gain in matched["gains"]}
    assert {kind: gain["difference"] for kind, gain in gains.items()} == {
        "gain over single": 0.5,
        "pairing gain P": 0.5,
    }
    assert gains["pairing gain P"]["control"] == str(runs / "a" / "deranged")
    assert rows["a/deranged"]["gains"] == []
    assert matched["versions"] == "torch 2.9.0, python 3.12.1"
    assert matched["hardware"] == "a processor, 4 cores; 2 actors on 1 node"


def test_a_team_of_different_models_is_named_and_compared_as_such(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    team: dict[str, Any] = {"task": "notes", "method": "latent", "topology": "hierarchical", "latent_steps": 5}
    mixed = {**team, "models": {"answerer": "small"}}
    write_simple_run(tmp_path / "mixed", "11", **mixed)
    write_simple_run(tmp_path / "mixed-deranged", "01", **mixed, memory="deranged")
    write_simple_run(tmp_path / "own", "10", **team)
    write_simple_run(tmp_path / "own-none", "00", **team, memory="none")
    found, _ = listed(capfd, str(tmp_path))
    rows = {Path(row["folder"]).name: row for row in found["runs"]}
    assert rows["mixed"]["model"] == "tiny (answerer: small)"
    assert rows["own"]["model"] == "tiny"
    gains = {name: [gain["kind"] for gain in rows[name]["gains"]] for name in ("mixed", "own")}
    assert gains == {"mixed": ["pairing gain P"], "own": ["system gain G"]}


def test_a_folder_that_is_given_twice_counts_once(runs: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found, _ = listed(capfd, str(runs / "a"), str(runs / "a" / "matched"))
    assert len(found["runs"]) == 3


def test_the_page_has_a_line_for_each_run_and_its_command(
    runs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "results.md"
    assert main(["results", str(runs), "--markdown", str(page)]) == 0
    capfd.readouterr()
    lines = page.read_text().splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + 5
    assert len({line.count("|") for line in table}) == 1
    (matched,) = (line for line in table if "+50.0" in line)
    assert "pairing gain P +50.0 (" in matched
    commands = [line for line in lines if "`latentmas eval " in line]
    assert len(commands) == 5
    assert "--latent-steps 10" in commands[1]
    assert any(line.startswith("- 1 to 3: a processor, 4 cores; 2 actors on 1 node; torch 2.9.0") for line in lines)
    assert sum(line.startswith(f"- {runs}") for line in lines) == 2


def test_the_terminal_shows_blocks_where_it_is_narrow(
    runs: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for columns in ("60", "240"):
        monkeypatch.setenv("COLUMNS", columns)
        assert main(["results", str(runs)]) == 0
        out = " ".join(capfd.readouterr().out.split())
        assert "pairing gain P +50.0" in out
        assert "latentmas eval --task gsm8k" in out


@pytest.mark.parametrize(
    ("args", "names"),
    [
        (["nowhere"], ["FOLDER", "'nowhere'", "there is no such folder"]),
        (["s3://bucket/runs"], ["FOLDER", "on this machine"]),
        (["."], ["FOLDER", "there is no run in it"]),
        ([".", "--markdown", "page.html"], ["--markdown", "'page.html'", ".md"]),
        ([".", "--markdown", "no/page.md"], ["--markdown", "its folder must exist"]),
    ],
)
def test_a_mistake_is_told_in_one_line(
    args: list[str],
    names: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["results", *args]) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert [name for name in names if name not in err] == []


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"model": "a folder/of mine", "task": "its file.jsonl", "topology": "mine.yaml"},
        {"realign": False, "temperature": 0.0, "top_p": 0.5, "memory": "deranged", "overlap": False},
        {"replicas": {"planner": 2, "judger": 6}, "transport": {"same_node": "shared_memory", "cross_node": "tcp"}},
        {"runtime": "local", "threads": 3, "device": "cpu", "codec": "int8", "unsafe_programs": True},
        {"method": "text", "max_new_tokens": 7, "seed": 2**62, "start_timeout": 0.125, "limit": 5},
    ],
)
def test_the_command_of_a_run_gives_the_same_configuration(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    seen: list[RunConfig] = []

    @contextmanager
    def stop(config: RunConfig, listener: object) -> Iterator[None]:
        seen.append(config)
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr("latentmas_ray.cli.commands.eval.open_system", stop)
    wanted = RunConfig(**config, output="runs/a", resume=True)
    assert main(shlex.split(eval_command(wanted))[1:]) == 130
    capfd.readouterr()
    assert yaml.safe_dump(seen[0].model_dump()) == yaml.safe_dump(
        {**wanted.model_dump(), "output": None, "resume": False}
    )
