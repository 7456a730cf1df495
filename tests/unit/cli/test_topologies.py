"""`latentmas topologies`, `python -m latentmas_ray`, completion, and where the results of a run are."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from latentmas_ray.cli.main import app, main
from latentmas_ray.cli.options import complete_task, complete_topology
from latentmas_ray.placement import PRESETS
from latentmas_ray.topology import BUILTIN, Topology

QUICK = ["--limit", "1", "--max-new-tokens", "2", "--runtime", "local", "--task", "sample", "--method", "single"]


def test_all_topologies_are_listed_with_who_reads_whom(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["topologies"]) == 0
    out = " ".join(capfd.readouterr().out.split())
    for name in BUILTIN:
        assert f" {name} " in f" {out} "
    assert "planner; critic ← planner; refiner ← critic; judger ← refiner" in out
    assert main(["topologies", "--json"]) == 0
    rows = json.loads(capfd.readouterr().out)
    assert [row["name"] for row in rows] == list(BUILTIN)


@pytest.mark.parametrize("name", ["sequential", "hierarchical", "notes-single"])
def test_one_is_shown_as_yaml_that_a_run_reads(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["topologies", name]) == 0
    assert Topology.parse(capfd.readouterr().out) == Topology.load(name)


def test_an_unknown_one_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["topologies", "sequental"]) == 2
    err = capfd.readouterr().err
    assert err.startswith("error: --topology: got 'sequental'; ")
    assert "sequential" in err


def test_help_says_what_is_true(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--help"]) == 0
    out = " ".join(capfd.readouterr().out.split())
    assert "one of latentmas topologies, or a FILE.yaml" in out
    assert "HOST:PORT of a running Ray cluster, or auto; without it that of RAY_ADDRESS, else one is started" in out
    assert main(["plan", "--help"]) == 0
    out = " ".join(capfd.readouterr().out.split())
    assert "HOST:PORT of a running Ray cluster, or auto: plan for its nodes; nothing is started" in out
    for name in PRESETS:
        family, _, size = name.rpartition("-")
        assert family in out
        assert f"-{size}" in out


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "latentmas_ray", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("latentmas 0.")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("latentmas ev", ["eval"]),
        ("latentmas eval --meth", ["--method"]),
        ("latentmas eval --method la", ["latent"]),
        ("latentmas eval --topology hier", ["hierarchical"]),
        ("latentmas ask --codec in", ["int4", "int8"]),
        ("latentmas eval --task gs", ["gsm8k"]),
    ],
)
def test_shells_complete_commands_flags_and_values(
    shell: str, words: str, expected: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_LATENTMAS_COMPLETE", f"complete_{shell}")
    if shell == "bash":
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    else:
        monkeypatch.setenv("_TYPER_COMPLETE_ARGS", words)
        monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
    with pytest.raises(SystemExit):
        main([])
    out = capfd.readouterr().out
    assert [name for name in expected if name in out] == expected
    assert "Traceback" not in out


def test_values_are_completed_from_what_there_is() -> None:
    assert complete_topology("chain-s") == ["chain-sequential", "chain-single"]
    assert complete_topology("./mine") == []  # then the shell completes file names
    assert set(complete_task("")) >= {"sample", "notes", "chain", "gsm8k"}


def test_a_script_for_a_shell_is_printed(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    # Read where the command line is built, which this process may have done before.
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    monkeypatch.setattr("latentmas_ray.cli.main._command", lambda: typer.main.get_command(app))
    with pytest.raises(SystemExit) as caught:
        main(["--show-completion", "bash"])
    assert caught.value.code == 0
    assert "_LATENTMAS_COMPLETE=complete_bash" in capfd.readouterr().out


@pytest.mark.parametrize("name", ["a", "runs of today"])
def test_the_last_line_says_where_the_results_are(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / name
    assert main(["eval", *QUICK, "--output", str(folder)]) == 0
    *_, last = capfd.readouterr().err.splitlines()
    shown = shlex.quote(str(folder))
    assert last == f"results: {shown}; next: latentmas report {shown}"
    assert main(["report", str(folder), "--output", str(tmp_path / "page.html")]) == 0


def test_traces_are_named_and_so_is_a_run_that_keeps_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", *QUICK, "--output", str(tmp_path / "a"), "--trace", "1"]) == 0
    assert capfd.readouterr().err.endswith(f"latentmas report {tmp_path}/a, latentmas inspect {tmp_path}/a\n")
    assert main(["inspect", f"{tmp_path}/a"]) == 0
    assert main(["eval", *QUICK]) == 0
    assert capfd.readouterr().err.endswith(
        "results: only here; --output DIR keeps them for latentmas report and compare\n"
    )
