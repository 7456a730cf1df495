"""Several drivers on a real Ray: the answers of one process, also where a driver is killed or the whole run."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import ray

from latentmas_ray import LatentMAS
from latentmas_ray.runs.run_events import QuestionAnswered, RunEvent, RunProgress, TurnRepeated
from tests.ray.actor_cases import timeless
from tests.ray.command_cases import COMMAND, read_rows, run_command, started, wait_for

pytestmark = pytest.mark.usefixtures("cluster")
NUM_QUESTIONS = 12
# In bfloat16 rounding depends on which questions are written at the same time.
SETTINGS: dict[str, Any] = {
    "dtype": "float32", "latent_steps": 6, "max_new_tokens": 6, "batch_size": 1, "limit": NUM_QUESTIONS,
}  # fmt: skip
DIVIDED: dict[str, Any] = {"drivers": 2, "replicas": 2, "placement": "colocate"}


def drivers_of(parent: int) -> list[int]:
    """The driver processes that a process has started."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            is_child = f"PPid:\t{parent}\n" in status.read_text()
            command = (status.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if is_child and b"latentmas_ray.system.drivers.child" in command:
            found.append(int(status.parent.name))
    return sorted(found)


def same(row: dict[str, Any]) -> dict[str, Any]:
    """What a row must have in common with that of one process: all but times, and where memory went."""
    return {key: value for key, value in timeless(row).items() if key != "transfers"}


class Killer:
    """Kills a driver once, at an answer."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.progress: list[RunProgress] = []
        self._has_killed = False

    def on_event(self, event: RunEvent) -> None:
        if isinstance(event, QuestionAnswered) and not self._has_killed:
            self._has_killed = True
            os.kill(drivers_of(os.getpid())[0], signal.SIGKILL)
        if isinstance(event, TurnRepeated):
            self.told.append(event.reason)
        if isinstance(event, RunProgress):
            self.progress.append(event)


def test_several_drivers_give_the_answers_of_one_process_also_when_one_is_killed(tmp_path: Path) -> None:
    with LatentMAS("tiny", task="chain", runtime="local", **SETTINGS) as alone:
        alone.evaluate(output=str(tmp_path / "one"))
    killer = Killer()
    address = ray.get_runtime_context().gcs_address
    with LatentMAS("tiny", task="chain", address=address, observer=killer, **DIVIDED, **SETTINGS) as mas:
        summary = mas.evaluate(output=str(tmp_path / "two"))
        assert len(drivers_of(os.getpid())) == 2
        controls = mas.evaluate(output=str(tmp_path / "controls"), limit=2, controls="matched,none")
    assert drivers_of(os.getpid()) == []
    assert (summary.num_questions, summary.num_failed) == (NUM_QUESTIONS, 0)
    rows = read_rows(tmp_path / "two")
    assert [same(row) for row in rows] == [same(row) for row in read_rows(tmp_path / "one")]
    assert [one for one in (tmp_path / "two").iterdir() if one.is_dir()] == []
    assert any("was lost (it was ended by signal 9); it starts again" in reason for reason in killer.told)
    assert max(one.num_done for one in killer.progress) == NUM_QUESTIONS
    timeline = (tmp_path / "two" / "timeline.jsonl").read_text()
    assert all(f'"replica": "driver {number}, ' in timeline for number in (1, 2))
    assert set(controls.runs) == {"matched", "none"}
    assert [row["id"] for row in read_rows(tmp_path / "controls" / "memory-none")] == ["chain-0", "chain-1"]


@pytest.mark.slow  # two more runs with two drivers each
def test_a_run_that_is_killed_with_its_drivers_is_resumed_by_any_number_of_them(tmp_path: Path) -> None:
    address = ray.get_runtime_context().gcs_address
    flags = ["--task", "chain", "--limit", "16", "--batch-size", "1", "--latent-steps", "1", "--max-new-tokens", "6"]
    where = ["--address", address, "--placement", "colocate", "--output", str(tmp_path / "run")]
    command = ["eval", *flags, *where]
    with started([COMMAND, *command, "--drivers", "2", "--replicas", "2"]) as run:
        wait_for(lambda: len(read_rows(tmp_path / "run")) >= 2)
        pids = drivers_of(run.pid)
        os.kill(run.pid, signal.SIGKILL)
        wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))  # by themselves
    done = run_command(*command, "--resume")
    assert done.returncode == 0, done.stderr
    assert [row["id"] for row in read_rows(tmp_path / "run")] == [f"chain-{number}" for number in range(16)]
    assert not list((tmp_path / "run").glob("driver-*"))
