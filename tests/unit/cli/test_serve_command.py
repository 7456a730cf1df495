"""`latentmas serve`: says where it is and how to ask, and ends in order."""

import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from latentmas_ray.cli.main import main

QUESTION = "Nadia has 5 beads. Then Nadia finds 3 more. How many beads has Nadia now?"


@contextmanager
def serving(*flags: str) -> Iterator[tuple["subprocess.Popen[str]", str, list[str]]]:
    """The process, its address, and its first lines."""
    command = [sys.executable, "-m", "latentmas_ray", "serve", "--runtime", "local", "--port", "0", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            lines = [process.stdout.readline().strip() for _ in range(3)]
            yield process, lines[1].split()[1].removesuffix("/v1"), lines
        finally:
            process.kill()


def test_running_requests_end_when_it_is_told_to_end() -> None:
    with serving("--latent-steps", "2", "--temperature", "0") as (process, url, lines):
        assert lines[0].startswith("serving latentmas/sequential, latentmas/sequential/single, ")
        assert url.startswith("http://127.0.0.1:")
        curl = shlex.split(lines[2].removeprefix("ask: "))
        # The first event comes when agents begin to think, long before the answer.
        own = {"latent_steps": 100, "trace": True}
        body = json.loads(curl[-1].replace("QUESTION", QUESTION)) | {"stream": True, "latentmas": own}
        with httpx.Client(timeout=120) as client, client.stream("POST", curl[1], json=body) as response:
            events = response.iter_lines()
            next(events)
            process.send_signal(signal.SIGTERM)
            assert list(filter(None, events))[-1] == "data: [DONE]"
            with pytest.raises(httpx.ConnectError):
                httpx.get(f"{url}/health")
        _, said = process.communicate()
    assert process.returncode == 0
    assert "SIGTERM: no new requests are taken; waiting at most 1 min 00 s for 1 request" in said
    assert QUESTION not in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--host", ""], "--host: got ''"),
        (["--port", "70000"], "--port: got '70000'"),
        (["--drain-timeout", "0"], "--drain-timeout: got '0'"),
        (["--topologies", "sequential,nowhere"], "--topologies: got 'nowhere'"),
        (["--max-waiting", "many"], "--max-waiting: got 'many'"),
    ],
)
def test_a_mistake_is_one_line(flags: list[str], said: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--runtime", "local", *flags]) == 2
    error = capfd.readouterr().err
    assert error.startswith(f"error: {said}; ")
    assert len(error.splitlines()) == 1


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("latentmas_ray.cli.commands.serving.serve.find_spec", lambda name: None)
    assert main(["serve"]) == 2
    assert "pip install 'latentmas-ray[serve]'" in capfd.readouterr().err
