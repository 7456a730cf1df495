"""The run of a config.yaml again: the same tokens, with flags and keywords that override, wherever its files are."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from latentmas_ray import LatentMAS, Topology
from latentmas_ray.cli.main import main
from latentmas_ray.config import make_config
from latentmas_ray.errors import ConfigError
from latentmas_ray.runs.journal import Journal
from latentmas_ray.system.settings import read_config_file

SMALL = ["--runtime", "local", "--task", "notes", "--limit", "2", "--batch-size", "2", "--latent-steps", "2"]
SHORT = ["--max-new-tokens", "4"]
MINE = """\
name: mine
agents:
  - {name: planner, thinks: latent, prompt: "{{ question }} {{ notes }}"}
  - {name: judger, reads: [planner], thinks: text, prompt: "{{ question }}"}
"""


def answers(folder: Path) -> dict[str, list[int]]:
    rows = map(json.loads, (folder / "results.jsonl").read_text().splitlines())
    return {row["id"]: row["answer_token_ids"] for row in rows}


def run(*args: str, output: Path) -> Path:
    assert main(["eval", *args, "--output", str(output)]) == 0
    return output


@pytest.mark.parametrize(
    "flags",
    [
        ["--seed", "7", "--topology", "hierarchical"],
        ["--method", "text", "--temperature", "0.9", "--top-p", "0.8"],
        ["--method", "single", "--temperature", "0"],
        ["--memory", "deranged", "--no-realign", "--guard", "warn", "--codec", "int8"],
        ["--memory", "prompt-only", "--transfer", "recompute", "--dtype", "bfloat16", "--threads", "1"],
    ],
    ids=" ".join,
)
def test_a_run_from_its_file_gives_the_same_tokens(
    flags: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first = run(*SMALL, *SHORT, *flags, output=tmp_path / "first")
    capfd.readouterr()
    again = run("--config", str(first / "config.yaml"), output=tmp_path / "again")
    assert answers(again) == answers(first)
    stored = [yaml.safe_load((folder / "config.yaml").read_text()) for folder in (first, again)]
    assert {**stored[0], "output": ""} == {**stored[1], "output": ""}
    assert "note:" not in capfd.readouterr().err


def test_in_python_and_with_other_values(tmp_path: Path) -> None:
    first = run(*SMALL, *SHORT, output=tmp_path / "first")
    with LatentMAS.from_config(first) as system:
        assert system.config.output is None
        assert system.config.latent_steps == 2
        system.evaluate(output=str(tmp_path / "again"))
    assert answers(tmp_path / "again") == answers(first)
    other = LatentMAS.from_config(first / "config.yaml", latent_steps=0, topology="hierarchical", runtime="ray")
    assert (other.config.latent_steps, other.config.topology, other.config.runtime) == (0, "hierarchical", "ray")
    assert LatentMAS.from_config(first, topology=Topology.parse(MINE, "mine")).topology.name == "mine"


class Stored:
    """A run's folder that was written by hand."""

    def __init__(self, folder: Path, **fields: Any) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.write(**fields)

    def write(self, **fields: Any) -> None:
        (self.folder / "config.yaml").write_text(yaml.safe_dump({"task": "notes", **fields}))

    def read(self, *given: str) -> dict[str, Any]:
        return dict(read_config_file(self.folder, given).fields)


def test_what_belongs_to_one_run_is_not_taken_over(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    stored = Stored(
        tmp_path / "run",
        output="runs/a",
        resume=True,
        address="10.0.0.1:6379",
        detach=60.0,
        save_memory="memories",
        trace=3,
        unsafe_programs=True,
        otel=True,
        latent_steps=3,
        runtime="ray",
        method="latent",
    )
    start = read_config_file(stored.folder)
    assert {"output", "resume", "address", "detach", "save_memory", "trace", "unsafe_programs", "otel"}.isdisjoint(
        start.fields
    )
    assert start.left_out == {
        "address": "10.0.0.1:6379",
        "detach": 60.0,
        "save_memory": "memories",
        "trace": 3,
        "unsafe_programs": True,
        "otel": True,
    }
    assert start.fields["latent_steps"] == 3
    assert stored.read("output")["trace"] == 3  # traces are files: only with an output
    args = ["eval", "--config", str(stored.folder), "--runtime", "local", "--limit", "1", *SHORT, "--method", "single"]
    assert main(args) == 0
    err = capfd.readouterr().err
    assert "note: other than in" in err
    assert "--method single (not latent)" in err
    assert "--runtime local (not ray)" in err
    assert "not taken over from" in err
    assert "--address 10.0.0.1:6379" in err


def test_files_of_earlier_versions_are_read(tmp_path: Path) -> None:
    stored = Stored(tmp_path / "run", handover="recipe", memory_in_flight="4000", latent_steps=0)
    with pytest.warns(match="handover=recipe is now transfer=recompute"):
        fields = stored.read()
    assert (fields["transfer"], fields["memory_in_flight"], fields["sampler"]) == ("recompute", "4000B", "counter")


def test_relative_files_are_found_where_the_run_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    work, elsewhere = tmp_path / "work", tmp_path / "elsewhere"
    work.mkdir()
    elsewhere.mkdir()
    (work / "q.jsonl").write_text('{"id": "a", "question": "Nadia has 5 beads. How many?", "gold": "5"}\n')
    (work / "mine.yaml").write_text(MINE.replace(" {{ notes }}", ""))
    monkeypatch.chdir(work)
    args = ["--runtime", "local", "--task", "q.jsonl", "--topology", "mine.yaml", "--latent-steps", "1", *SHORT]
    first = run(*args, output=work / "run")
    assert (first / "topology.yaml").exists()
    assert yaml.safe_load((first / "config.yaml").read_text())["started_in"] == str(work)
    monkeypatch.chdir(elsewhere)
    fields = read_config_file(first).fields
    assert (fields["task"], fields["topology"]) == (str(work / "q.jsonl"), str(work / "mine.yaml"))
    monkeypatch.chdir(work)
    assert read_config_file(first).fields["task"] == "q.jsonl"  # the same name, so the same settings

    # The file of the topology may have changed, or be gone: its copy is in the folder.
    (work / "mine.yaml").write_text(MINE.replace(" {{ notes }}", " Think."))
    start = read_config_file(first)
    assert start.fields["topology"] == str(first / "topology.yaml")
    assert "has changed since the run" in start.notes[0]
    (work / "mine.yaml").unlink()
    start = read_config_file(first)
    assert (start.fields["topology"], start.notes) == (str(first / "topology.yaml"), ())
    capfd.readouterr()
    assert answers(run("--config", str(first), output=work / "again")) == answers(first)

    # A folder that was copied to another machine with its questions.
    shutil.copytree(first, elsewhere / "run")
    (work / "q.jsonl").rename(elsewhere / "q.jsonl")
    monkeypatch.chdir(elsewhere)
    assert read_config_file("run").fields["task"] == "q.jsonl"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"task: got 'q.jsonl'; it is not here, nor in .*work, where the run was"):
        read_config_file(elsewhere / "run")
    assert "task" not in read_config_file(elsewhere / "run", ["task"]).fields


@pytest.mark.parametrize("field", ["task", "models", "translation", "decide_accuracies", "hardware"])
def test_every_field_that_names_a_file_finds_it_where_the_run_was_started(
    field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, elsewhere, name = tmp_path / "work", tmp_path / "elsewhere", "Here.JSON"
    work.mkdir()
    elsewhere.mkdir()
    (work / name).write_text("{}")
    named: Any = {"answerer": name} if field == "models" else name
    more = {"decides": "ow"} if field == "decide_accuracies" else {}
    monkeypatch.chdir(work)
    folder = tmp_path / "run"
    Journal.open(folder, make_config({"task": "notes", field: named, **more}), []).close()
    monkeypatch.chdir(elsewhere)
    found = read_config_file(folder).fields[field]
    assert found == ({"answerer": str(work / name)} if field == "models" else str(work / name))
    (work / name).unlink()
    if field != "models":  # a name on the hub, perhaps
        with pytest.raises(ConfigError, match=f"{field}: got '{name}'; it is not here, nor in .*work, where"):
            read_config_file(folder)


def test_a_topology_of_python_is_copied_and_a_changed_built_in_one_is_told(tmp_path: Path) -> None:
    stored = Stored(tmp_path / "run", topology="made-here", pinned={"topology_digest": "other"})
    with pytest.raises(ConfigError, match="topology: got 'made-here'; it is not here"):
        stored.read()
    (stored.folder / "topology.yaml").write_text(MINE)
    assert stored.read()["topology"] == str(stored.folder / "topology.yaml")
    stored.write(topology="sequential", pinned={"topology_digest": "other"})
    (stored.folder / "topology.yaml").unlink()
    assert "answers may differ" in read_config_file(stored.folder).notes[0]
    assert read_config_file(stored.folder, ["method"]).notes == ()


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (None, ["--config", "there is no such file"]),
        ("task: [", ["--config", "it must be YAML of a run's fields"]),
        ("", ["--config", "it must hold the fields of a run"]),
        ("- task", ["--config", "it must hold the fields of a run"]),
        ("task: notes\nlatent_stops: 3", ["latent_stops", "'3'", "this version has no such field"]),
        ("task: notes\nlatent_steps: -3", ["config.yaml: latent_steps", "'-3'", "a whole number from 0 to 100000"]),
        ("task: notes\nmethod: telepathy", ["config.yaml: method", "'telepathy'", "'single', 'text' or 'latent'"]),
        ("task: gone.jsonl", ["config.yaml: task", "'gone.jsonl'", "it is not here"]),
        ("task: notes\nmodel: /gone/model", ["config.yaml: model", "'/gone/model'", "it is not here"]),
        ("task: notes\nmodel: mine\npinned: {weights_revision: x}", ["model", "a model object of Python"]),
    ],
)
def test_a_file_that_is_none_is_told_in_one_line(
    content: str | None, names: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.yaml"
    if content is not None:
        path.write_text(content)
    assert main(["eval", "--config", str(path)]) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1, err
    assert [name for name in names if name not in err] == [], err


def test_of_several_runs_one_has_to_be_chosen(tmp_path: Path) -> None:
    for name in ("seed-1", "seed-2"):
        Stored(tmp_path / "seeds" / name, seed=int(name[-1]))
        Stored(tmp_path / "sweep" / "latent-steps-0" / name)
    with pytest.raises(ConfigError, match=r"it holds 2 runs: give one of .*seed-1/config.yaml, .*seed-2/config.yaml"):
        read_config_file(tmp_path / "seeds")
    with pytest.raises(ConfigError, match=r"it holds 2 runs: give one of .*latent-steps-0/seed-1/config.yaml"):
        read_config_file(tmp_path / "sweep")
    assert read_config_file(tmp_path / "seeds" / "seed-2").fields["seed"] == 2
