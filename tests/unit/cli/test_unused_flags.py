"""Flags that have no effect with others are reported in one line each on stderr, and change nothing else."""

import json
from pathlib import Path

import pytest

from latentmas_ray.cli.main import main
from latentmas_ray.cli.unused_flags import NOTES, UNUSED_FLAGS, tell_unused
from tests.cases.report import make_trace
from tests.unit.report.test_compare import write_run

QUICK = ["--limit", "1", "--max-new-tokens", "2", "--runtime", "local", "--task", "sample"]
STEP = ["--latent-steps", "1"]  # where there are any
ASK = ["ask", "--example", "chain", "--runtime", "local", "--latent-steps", "1", "--max-new-tokens", "2"]
PLAN = ["plan", "--model", "qwen3-8b", "--nodes", "2", "--gpus-per-node", "8"]


def notes(args: list[str], capfd: pytest.CaptureFixture[str]) -> list[str]:
    """What a command tells; it must not fail."""
    assert main(args) == 0
    told = [line.removeprefix("note: ") for line in capfd.readouterr().err.splitlines() if line.startswith("note: ")]
    return [line for line in told if " does nothing " in line]


def test_flags_of_a_run(capfd: pytest.CaptureFixture[str]) -> None:
    given = ["--replicas", "2", "--no-overlap", "--memory-in-flight", "1GB", "--latent-steps", "4", "--codec", "int8"]
    assert notes(["eval", *QUICK, "--method", "text", *given], capfd) == [
        "--replicas 2 does nothing with --runtime local: one process runs all agents, one after another",
        "--memory-in-flight 1GB does nothing with --runtime local: one process runs all agents, one after another",
        "--no-overlap does nothing with --runtime local: one process runs all agents, one after another",
        "--codec int8 does nothing with --method text: the agents hand over text",
        "--latent-steps 4 does nothing with --method text: the agents hand over text",
    ]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ([*STEP, "--replicas", "planner=2"], "--replicas planner=2 does nothing with --runtime local: "),
        ([*STEP, "--address", "127.0.0.1:1"], "--address 127.0.0.1:1 does nothing with --runtime local: "),
        ([*STEP, "--placement", "pack"], "--placement pack does nothing with --runtime local: "),
        (["--method", "single", "--transfer", "recompute"], "--transfer recompute does nothing with --method single: "),
        (["--method", "single", "--handover", "kv"], "--transfer kv does nothing with --method single: "),
        ([*STEP, "--temperature", "0", "--seed", "4"], "--seed 4 does nothing with --temperature 0.0: decoding"),
        (["--method", "single", "--topology", "hierarchical"], "--topology hierarchical does nothing with --method"),
    ],
)
def test_each_is_one_line(flags: list[str], told: str, capfd: pytest.CaptureFixture[str]) -> None:
    (line,) = notes(["eval", *QUICK, *flags], capfd)
    assert line.startswith(told)


def test_what_was_not_typed_is_not_told(capfd: pytest.CaptureFixture[str]) -> None:
    assert notes(["eval", *QUICK, "--method", "single", "--temperature", "0"], capfd) == []
    assert (
        notes(["demo", "--limit", "2", "--latent-steps", "1", "--max-new-tokens", "2", "--runtime", "local"], capfd)
        == []
    )


def test_demo_tells_only_what_no_row_uses(capfd: pytest.CaptureFixture[str]) -> None:
    args = ["demo", "--limit", "2", "--latent-steps", "1", "--max-new-tokens", "2", "--runtime", "local"]
    (line,) = notes([*args, "--address", "auto"], capfd)
    assert line.startswith("--address auto does nothing")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("runs")
    found = [write_run(folder / name, {"q0": True, "q1": False}, method="single") for name in ("a", "b")]
    from latentmas_ray.runs.folder import encode_row

    (folder / "a" / "traces.jsonl").write_bytes(encode_row(make_trace("q0").to_row()))
    return found


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ([*ASK, "--trace", "--json"], "--trace does nothing with --json"),
        ([*ASK, "--anyway"], "--anyway does nothing with --example"),
        ([*ASK, "--temperature", "0", "--seed", "3"], None),
        (["compare", "A", "B", "--answers", "--json"], "--answers does nothing with --json"),
        (["inspect", "A", "--agent", "planner"], "--agent planner does nothing without --question"),
        (["inspect", "A", "--full"], "--full does nothing without --question"),
        (["grade", "--task", "T", "--results", "R", "--overwrite"], "--overwrite does nothing without --output"),
        (
            [*PLAN, "--latent-steps", "3", "--topology", "own.yaml"],
            "--latent-steps 3 does nothing with --topology own.yaml",
        ),
        ([*PLAN, "--shared-memory", "3GB/s"], "--shared-memory 3GB/s does nothing in this plan"),
        ([*PLAN, "--network", "3GB/s"], "--network 3GB/s does nothing in this plan"),
        ([*PLAN, "--network", "3GB/s", "--placement", "spread"], None),
        ([*PLAN, "--nvlink", "none"], None),
        (
            ["plan", "--nodes", "1", "--gpus-per-node", "0", "--gpu-memory", "80GB"],
            "--gpu-memory 80GB does nothing on nodes",
        ),
        (["topologies", "sequential", "--json"], "--json does nothing with a NAME"),
        (["vote", "V", "--rule", "isp"], "--rule isp does nothing without --output"),
        (["vote", "V", "--accuracies", "0.6,0.7"], "--accuracies 0.6,0.7 does nothing without --simulate"),
        (["vote", "--simulate", "--calibrate", "3"], "--calibrate 3 does nothing with --simulate"),
    ],
)
def test_flags_of_commands(
    args: list[str],
    told: str | None,
    runs: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text(
        "name: mine\nagents:\n  - {name: a, prompt: x, latent_steps: 2}\n"
        '  - {name: b, reads: a, thinks: text, prompt: "{{ question }}"}\n'
    )
    Path("t.jsonl").write_text(
        '{"id": "q0", "question": "q0?", "gold": "yes"}\n{"id": "q1", "question": "q1?", "gold": "yes"}\n'
    )
    votes = [{"question": one, "agent": agent, "answer": agent, "options": 2} for one in (1, 2) for agent in "xy"]
    Path("v.jsonl").write_text("".join(json.dumps(vote) + "\n" for vote in votes))
    names = {"A": runs[0], "B": runs[1], "T": "t.jsonl", "V": "v.jsonl", "R": f"{runs[0]}/results.jsonl"}
    found = notes([names.get(arg, arg) for arg in args], capfd)
    assert len(found) == (told is not None)
    assert told is None or found[0].startswith(told)


def test_every_command_with_such_flags_is_tried() -> None:
    tried = {"ask", "compare", "grade", "inspect", "plan", "topologies", "vote", "bench transfer", "bench answer"}
    assert set(UNUSED_FLAGS) == tried | {"bench serve"}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"url": "http://127.0.0.1:8000/v1", "model": "tiny"}, ["--model tiny does nothing with --url"]),
        ({"model": "tiny", "seed": 1}, ["--seed 1 does nothing without --rates"]),
        ({"url": "http://127.0.0.1:8000/v1", "seed": 1, "rates": (2.0,)}, []),
    ],
)
def test_flags_of_bench_serve(given: dict[str, object], told: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    tell_unused("bench serve", {"url": None, "rates": (), **given})
    NOTES.release()
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == len(told)
    assert all(line.startswith(f"note: {words}") for line, words in zip(lines, told, strict=True))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"engines": (), "repeats": 2}, ["--repeats 2 does nothing with --engines none"]),
        ({"engines": ("vllm",), "repeats": 2, "runtime": "local"}, []),
        (
            {"methods": (), "concurrency": (1, 8), "address": "auto"},
            ["--concurrency 1,8 does nothing with --methods none", "--address auto does nothing with --methods none"],
        ),
        ({"runtime": "local", "address": "auto"}, ["--address auto does nothing with --runtime local"]),
    ],
)
def test_flags_of_the_answer_benchmark(
    given: dict[str, object], told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not run here: it measures for minutes."""
    held: list[str] = []
    monkeypatch.setattr(NOTES, "hold", held.append)
    tell_unused("bench answer", {"engines": None, "methods": None, "runtime": None, **given})
    assert [line.partition(":")[0] for line in held] == told


@pytest.mark.parametrize(
    "args",
    [
        ["eval", *QUICK, "--replicas", "2", "--task", "/nowhere/q.jsonl"],
        ["eval", *QUICK, "--codec", "int8", "--method", "single", "--resume"],
        ["ask", "why?", "--latent-steps", "3", "--method", "text", "--runtime", "local"],
        ["grade", "--task", "sample", "--results", "/nowhere/r.jsonl", "--overwrite"],
        ["inspect", "/nowhere", "--full"],
        ["compare", "/nowhere", "/nobody", "--answers", "--json"],
        ["plan", "--model", "qwen3-8b", "--nodes", "1", "--gpus-per-node", "0", "--gpu-memory", "80GB", "--tp", "999"],
    ],
)
def test_a_mistake_is_still_one_line_alone(args: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert main(args) == 2
    err = capfd.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
