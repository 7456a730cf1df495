"""A driver that is killed, and the next one, which finds the actors of the first."""

import json
import os
import signal
from pathlib import Path

import pytest
import ray
from ray.util import list_named_actors, placement_group, placement_group_table, remove_placement_group

from tests.ray.actor_cases import timeless
from tests.ray.command_cases import COMMAND, read_rows, run_command, started, wait_for

pytestmark = [
    pytest.mark.usefixtures("cluster"),
    pytest.mark.slow,  # three drivers; `tests/unit/actors/detached` has the record, the lease and what is found
]
NUM_QUESTIONS = 24


def command(folder: Path, output: str, *more: str) -> list[str]:
    address = ray.get_runtime_context().gcs_address
    flags = ["--latent-steps", "2", "--max-new-tokens", "8", "--batch-size", "1", "--temperature", "0"]
    where = ["--address", address, "--output", str(folder / output)]
    return ["eval", "--task", str(folder / "questions.jsonl"), *flags, *where, *more]


def detached() -> list[str]:
    return [one["name"] for one in list_named_actors(all_namespaces=True) if "latentmas-" in one["namespace"]]


def groups() -> list[str]:
    return [name for name, group in placement_group_table().items() if group["state"] != "REMOVED"]


def test_the_next_driver_goes_on_with_the_actors_of_one_that_was_killed(tmp_path: Path) -> None:
    lines = [json.dumps({"id": f"q{index}", "question": f"What is {index} + 9?"}) for index in range(NUM_QUESTIONS)]
    (tmp_path / "questions.jsonl").write_text("\n".join(lines))
    assert run_command(*command(tmp_path, "undisturbed")).returncode == 0
    with started([COMMAND, *command(tmp_path, "run", "--detach", "600")]) as driver:
        wait_for(lambda: len(read_rows(tmp_path / "run")) >= 3)
        os.kill(driver.pid, signal.SIGKILL)
    before = detached()
    assert len(before) == 4
    done = run_command(*command(tmp_path, "run", "--detach", "600", "--resume"))
    assert done.returncode == 0, done.stderr
    assert "continues with the 4 actors of its former driver" in done.stderr
    rows, undisturbed = read_rows(tmp_path / "run"), read_rows(tmp_path / "undisturbed")
    assert [timeless(row) for row in rows] == [timeless(row) for row in undisturbed]
    wait_for(lambda: not detached() and not groups())
    assert not (tmp_path / "run" / "actors.json").exists()


def test_actors_of_a_driver_that_never_returns_end_by_themselves(tmp_path: Path) -> None:
    lines = [json.dumps({"id": f"q{index}", "question": f"What is {index} + 9?"}) for index in range(NUM_QUESTIONS)]
    (tmp_path / "questions.jsonl").write_text("\n".join(lines))
    with started([COMMAND, *command(tmp_path, "run", "--detach", "10")]) as driver:
        wait_for(lambda: len(read_rows(tmp_path / "run")) >= 1)
        os.kill(driver.pid, signal.SIGKILL)
    assert detached()
    wait_for(lambda: not detached() and not groups())
    done = run_command(*command(tmp_path, "run", "--detach", "10", "--resume"))
    assert done.returncode == 0, done.stderr
    assert "the actors start again: of the former driver's, 0 of 4 answered" in done.stderr
    assert len(read_rows(tmp_path / "run")) == NUM_QUESTIONS


def test_places_that_a_killed_driver_waited_for_are_given_back_by_themselves(tmp_path: Path) -> None:
    """It had no actors yet that could do it, and no other driver comes."""
    lines = [json.dumps({"id": f"q{index}", "question": f"What is {index} + 9?"}) for index in range(2)]
    (tmp_path / "questions.jsonl").write_text("\n".join(lines))
    taken = placement_group([{"CPU": ray.cluster_resources()["CPU"]}])
    try:
        assert taken.wait(60)
        with started([COMMAND, *command(tmp_path, "run", "--detach", "10")]) as driver:
            wait_for(lambda: len(groups()) == 2)
            os.kill(driver.pid, signal.SIGKILL)
        wait_for(lambda: len(groups()) == 1)
    finally:
        remove_placement_group(taken)
    wait_for(lambda: not detached())
