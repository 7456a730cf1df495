"""`latentmas serve` and SIGHUP, as a process."""

import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.unit.cli.test_serve_command import serving

TEAM = """name: mine
agents:
- {name: scout, prompt: "{{ question }}"}
- {name: judger, thinks: text, reads: [scout], prompt: "{{ question }}"}
"""


def test_a_signal_reads_the_topologies_again(tmp_path: Path) -> None:
    mine, names = tmp_path / "mine.yaml", tmp_path / "list.yaml"
    mine.write_text(TEAM)
    names.write_text("topologies: []\n")
    with serving("--latent-steps", "1", "--topologies-file", str(names)) as (process, url, lines):
        assert "latentmas/mine" not in lines[0]
        assert process.stderr is not None
        said: list[str] = []
        for content, expected in [
            ("topologies: [mine.yaml]\n", "reloaded: serving latentmas/sequential, "),
            ("topologies: [mine\n", "not reloaded, what was served before is served: "),
        ]:
            names.write_text(content)
            process.send_signal(signal.SIGHUP)
            while expected not in (line := process.stderr.readline()):
                assert line, said
                said.append(line)
            found = {one["id"] for one in httpx.get(f"{url}/v1/models").json()["data"]}
            assert {"latentmas/mine", "latentmas/mine/text", "latentmas/sequential"} <= found
        assert "Traceback" not in "".join(said)


# Sends itself a signal while the command imports what it needs.
AT_IMPORT = """
import builtins, os, signal, sys

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # `nohup` and background jobs of a shell have their children ignore them
signal.signal(signal.SIGINT, signal.default_int_handler)
imported = builtins.__import__

def importing(name, *arguments, **more):
    if name == "latentmas_ray.serve.app":
        builtins.__import__ = imported
        os.kill(os.getpid(), getattr(signal, sys.argv[1]))
    return imported(name, *arguments, **more)

builtins.__import__ = importing
from latentmas_ray.cli.main import main

sys.exit(main(["serve", "--runtime", "local", "--port", "0", "--latent-steps", "1"]))
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_server_that_imports_ends_at_once(name: str) -> None:
    command = [sys.executable, "-c", AT_IMPORT, name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.splitlines() == [f"{name}: stopped before the models were loaded"]


def test_a_server_that_imports_outlives_its_terminal() -> None:
    """And reads the topologies again once it can, since they may have changed."""
    command = [sys.executable, "-c", AT_IMPORT, "SIGHUP"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            said = [process.stderr.readline()]
            while not said[-1].startswith("reloaded: serving latentmas/sequential, "):
                assert said[-1], said
                said.append(process.stderr.readline())
        finally:
            process.kill()
