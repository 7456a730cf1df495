"""A run that is killed or interrupted half way, as real processes, and its resumption."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from latentmas_ray.cli.main import main
from tests.ray.actor_cases import timeless
from tests.ray.command_cases import COMMAND, PAIR, lines_unlike, processes_of, read_rows, started, wait_for

NUM_QUESTIONS = 24
FLAGS = ["--batch-size", "3", "--latent-steps", "10", "--max-new-tokens", "24", "--temperature", "0.8"]


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The evaluation of some questions by two agents."""
    folder = tmp_path_factory.mktemp("inputs")
    lines = [json.dumps({"id": f"q{index}", "question": f"What is {index} + 9?"}) for index in range(NUM_QUESTIONS)]
    (folder / "questions.jsonl").write_text("\n".join(lines))
    (folder / "pair.yaml").write_text(PAIR)
    where = ["--task", str(folder / "questions.jsonl"), "--topology", str(folder / "pair.yaml")]
    # In bfloat16 rounding depends on which questions are written at the same time.
    return ["eval", *where, "--dtype", "float32", *FLAGS]


@pytest.fixture(scope="module")
def undisturbed(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert main([*command, "--runtime", "local", "--output", str(folder)]) == 0
    rows = [timeless(row) for row in read_rows(folder)]
    assert [row["id"] for row in rows] == [f"q{index}" for index in range(NUM_QUESTIONS)]
    return rows


def _is_actor(process: str) -> bool:
    return any(kind in process for kind in ("AgentActor", "TextActor"))


def _check_half_done(folder: Path, undisturbed: list[dict[str, object]]) -> None:
    rows = [timeless(row) for row in read_rows(folder)]
    assert 0 < len(rows) < NUM_QUESTIONS
    assert [row for row in rows if row not in undisturbed] == []
    assert not (folder / "summary.json").exists()


def _check_resumed(folder: Path, undisturbed: list[dict[str, object]], *command: str) -> None:
    """Resumed in this process, which is another one than the command's."""
    assert main([*command, "--resume"]) == 0
    assert [timeless(row) for row in read_rows(folder)] == undisturbed
    assert json.loads((folder / "summary.json").read_text())["num_questions"] == NUM_QUESTIONS


@pytest.mark.slow  # `tests/unit/runs/test_journal.py` kills a run without a model
@pytest.mark.parametrize("runtime", ["local", "ray"])
def test_a_run_whose_driver_is_killed_is_resumed(
    command: list[str], undisturbed: list[dict[str, object]], tmp_path: Path, runtime: str
) -> None:
    run = [*command, "--runtime", runtime, "--output", str(tmp_path)]
    with started([COMMAND, *run]) as process:
        wait_for(lambda: len(read_rows(tmp_path)) >= 3, process)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        # The driver had no chance to end its actors: they must notice. Two idle helpers of Ray take a minute for that.
        wait_for(lambda: not any(_is_actor(name) for name in processes_of(process.pid).values()))
    _check_half_done(tmp_path, undisturbed)
    _check_resumed(tmp_path, undisturbed, *run)


def _ctrl_c(pid: int) -> None:
    os.killpg(pid, signal.SIGINT)  # as a terminal does: to every process that the command started


def _terminate(pid: int) -> None:
    os.kill(pid, signal.SIGTERM)  # as Slurm, Kubernetes and `ray job stop` do


@pytest.mark.parametrize(
    "where",
    [
        pytest.param(["--runtime", "local"], id="local"),
        pytest.param(["--runtime", "ray", "--placement", "colocate"], id="ray", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(
    ("stop", "code", "reason"),
    [
        pytest.param(_ctrl_c, 130, "interrupted", id="Ctrl-C", marks=pytest.mark.slow),
        pytest.param(_terminate, 143, "terminated by SIGTERM", id="SIGTERM"),
    ],
)
def test_a_run_that_is_stopped_leaves_a_journal_that_can_be_resumed(
    command: list[str],
    undisturbed: list[dict[str, object]],
    tmp_path: Path,
    where: list[str],
    stop: Callable[[int], None],
    code: int,
    reason: str,
) -> None:
    run = [*command, "--output", str(tmp_path)]
    with started([COMMAND, *run, *where]) as process:
        wait_for(lambda: len(read_rows(tmp_path)) >= 3, process)
        stop(process.pid)
        out, err = process.communicate(timeout=60)
        assert process.returncode == code
        wait_for(lambda: not processes_of(process.pid))
    *progress, said, advice = err.splitlines()
    assert lines_unlike(["latent: ", "note: "], progress) == []
    assert said == f"error: {reason}"
    assert str(tmp_path) in advice
    assert "--resume" in advice
    assert out == ""
    _check_half_done(tmp_path, undisturbed)
    _check_resumed(tmp_path, undisturbed, *run, "--runtime", "local")
