"""A `~` at the beginning of a path is the home folder, wherever a path is taken: no shell expands `--output=~/runs`."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from latentmas_ray import LatentMAS, Memory, load_run
from latentmas_ray.cli.main import main
from latentmas_ray.config import make_config, stored_fields
from latentmas_ray.errors import ConfigError, InputError, MemoryInputError, TaskError, TopologyError
from latentmas_ray.paths import expand_home
from latentmas_ray.placement.model_dims import known_dims
from latentmas_ray.report.compare import compare_folders
from latentmas_ray.tasks import load_questions
from latentmas_ray.topology import load_topology
from tests.unit.report.test_compare import write_run

GOLDEN_MODEL = Path(__file__).parents[1] / "golden" / "model"
QUICK = ["--limit", "1", "--runtime", "local", "--method", "single", "--max-new-tokens", "2"]
UNKNOWN_USER = "~no-such-user/x"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with a task, a topology, a model and runs; the working directory is another, empty one."""
    folder, here = tmp_path / "home", tmp_path / "here"
    folder.mkdir()
    here.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(here)
    (folder / "q.jsonl").write_text(
        '{"id": "a", "question": "a?", "gold": "yes"}\n{"id": "b", "question": "b?", "gold": "yes"}\n'
    )
    (folder / "mine.yaml").write_text('name: mine\nagents:\n  - {name: a, thinks: text, prompt: "{{ question }}"}\n')
    shutil.copytree(GOLDEN_MODEL, folder / "model")
    for name in ("one", "two"):
        write_run(folder / name, {"a": True, "b": False}, method="single")
    return folder


@pytest.mark.parametrize(("path", "expected"), [("~", ""), ("~/", "/"), ("~/a/~b", "/a/~b"), ("~/a b/", "/a b/")])
def test_a_home_folder_is_expanded_at_the_beginning_only(home: Path, path: str, expected: str) -> None:
    assert expand_home("output", path) == f"{home}{expected}"


@pytest.mark.parametrize("path", ["a/~/b", "./~", "/tmp/~x", "s3://bucket/~", "a~", ""])
def test_other_paths_stay_as_they_are(path: str) -> None:
    assert expand_home("output", path) == path


@pytest.mark.parametrize("path", [UNKNOWN_USER, "~no-such-user"])
def test_an_unknown_user_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match=r"^output: got '~no-such.*there is no user 'no-such-user' on this"):
        expand_home("output", path)


@pytest.mark.parametrize("field", ["model", "task", "output", "save_memory"])
def test_fields_of_a_configuration(home: Path, field: str) -> None:
    assert getattr(make_config({field: "~/x"}), field) == f"{home}/x"
    with pytest.raises(ConfigError, match=f"^{field}: got '~no-such.*there is no user") as caught:
        make_config({field: UNKNOWN_USER})
    assert str(caught.value).count("got") == 1


def test_a_topology_is_a_file_only_with_its_ending(home: Path) -> None:
    assert make_config({"topology": "~/mine.yaml"}).topology == f"{home}/mine.yaml"
    assert make_config({"topology": "~ my agents ~"}).topology == "~ my agents ~"
    with pytest.raises(ConfigError, match="there is no user"):
        make_config({"topology": f"{UNKNOWN_USER}.yaml"})


def test_a_run_of_a_version_that_stored_the_tilde_is_resumed(home: Path) -> None:
    stored = stored_fields({"model": "~/model", "task": f"{UNKNOWN_USER}.jsonl"})
    assert (stored["model"], stored["task"]) == (f"{home}/model", f"{UNKNOWN_USER}.jsonl")


def test_an_evaluation_writes_below_the_home_folder(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    paths = ["--output=~/runs/a", "--task=~/q.jsonl", "--topology=~/mine.yaml"]
    assert main(["eval", *paths, *QUICK]) == 0
    assert (home / "runs/a/results.jsonl").is_file()
    assert [*Path.cwd().iterdir()] == []
    assert main(["eval", *paths, *QUICK, "--resume"]) == 0
    assert f"--output '{home}" not in capfd.readouterr().err


COMMANDS: dict[str, list[str]] = {
    "report": ["report", "~/one", "~/two", "--output=~/page.html"],
    "inspect": ["inspect", "~/one"],
    "compare": ["compare", "~/one", "--base=~/two"],
    "grade": ["grade", "--task=~/q.jsonl", "--results=~/one/results.jsonl", "--output=~/again.jsonl"],
    "plan": ["plan", "--model=~/model", "--topology=~/mine.yaml", "--nodes", "1", "--gpus-per-node", "0"],
    "topologies": ["topologies", "~/mine.yaml"],
    "memory": ["memory", "~/memory.safetensors"],
    "plot": ["bench", "transfer", "--plot=~/nowhere/plot.png"],
}


@pytest.mark.parametrize("args", COMMANDS.values(), ids=COMMANDS)
def test_commands_find_what_is_in_the_home_folder(
    home: Path, args: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    code = main(args)
    out, err = capfd.readouterr()
    assert "no such folder" not in err
    assert "'~" not in err or code == 2
    assert [*Path.cwd().iterdir()] == []
    # What is not there is named where it was looked for.
    missing = {
        "inspect": "it has no traces",
        "memory": f"got '{home}/memory.safetensors'; there is no such file",
        "plot": f"its folder must exist: {home}/nowhere",
    }
    assert code == (2 if args[0] in ("inspect", "memory", "bench") else 0), err
    assert missing.get(next(name for name in COMMANDS if COMMANDS[name] == args), "") in err
    if args[0] == "report":
        assert (home / "page.html").is_file()
        assert out.startswith(str(home))
    if args[0] == "grade":
        assert (home / "again.jsonl").is_file()


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_refuse_an_unknown_user(home: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    args = [one.replace("~/", "~no-such-user/") for one in COMMANDS[name]]
    assert main(args) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert "there is no user 'no-such-user'" in err
    assert err.count("\n") == 1


CALLS: dict[str, tuple[Callable[[str], object], type[InputError]]] = {
    "topology": (lambda path: load_topology(f"{path}.yaml"), TopologyError),
    "questions": (lambda path: load_questions(f"{path}.jsonl"), TaskError),
    "memory": (Memory.load, MemoryInputError),
    "run": (load_run, InputError),
    "runs": (lambda path: compare_folders([path, "b"]), ConfigError),
    "dims": (known_dims, InputError),
    "output": (lambda path: LatentMAS("tiny", runtime="local", output=path), ConfigError),
    "model": (lambda path: LatentMAS(path, runtime="local"), InputError),
    "evaluate": (lambda path: LatentMAS("tiny", runtime="local").evaluate(f"{path}.jsonl", limit=1), InputError),
}


@pytest.mark.parametrize("name", CALLS)
def test_python_refuses_an_unknown_user(home: Path, name: str) -> None:
    call, error = CALLS[name]
    with pytest.raises(error, match="there is no user 'no-such-user' on this machine"):
        call(UNKNOWN_USER)


def test_python_reads_from_the_home_folder(home: Path) -> None:
    assert load_topology("~/mine.yaml").name == "mine"
    assert [question.id for question in load_questions("~/q.jsonl")] == ["a", "b"]
    assert len(load_run("~/one").answers) == 2
    assert len(json.loads(json.dumps(compare_folders(["~/one", "~/two"]).to_json()))["runs"]) == 2
    assert known_dims("~/model") is not None
