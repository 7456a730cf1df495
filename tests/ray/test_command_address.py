"""Joining a cluster: one that runs, which stays, and addresses where none answers."""

import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from threading import Thread

import pytest

from latentmas_ray.actors import cluster as joining
from latentmas_ray.cli.main import main
from tests.ray.command_cases import COMMAND, QUESTION, run_command, started, wait_for
from tests.ray.test_command_golden import GOLDEN, SAME_ROUNDING, golden_command, golden_rows

AUTH = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "5e" * 32}
RAY = COMMAND.with_name("ray")


def _free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return int(server.getsockname()[1])


def _answers(port: int) -> bool:
    with closing(socket.socket()) as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster of one node that has nothing to do with any other on this machine."""
    port = _free_port()
    folder = tempfile.mkdtemp(prefix="lmr-")  # short: the paths of Unix sockets are bounded
    head = [RAY, "start", "--head", "--block", "--disable-usage-stats", "--include-dashboard=false", "--num-cpus=4"]
    where = [
        f"--port={port}",
        "--node-ip-address=127.0.0.1",
        f"--temp-dir={folder}",
        f"--object-store-memory={200 * 2**20}",
    ]
    with started([*head, *where], SAME_ROUNDING | AUTH) as process:
        wait_for(lambda: _answers(port), process)
        yield f"127.0.0.1:{port}"
        process.terminate()
        process.wait(timeout=60)
    shutil.rmtree(folder, ignore_errors=True)


WAYS = {"colocate": "loopback", "pack": "shared_memory"}


@pytest.mark.slow  # a cluster of its own for them; `tests/multinode/test_command.py` joins one too
@pytest.mark.parametrize("placement", WAYS)
def test_a_running_cluster_is_joined_and_left_running(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, placement: str
) -> None:
    """Given by the flag, which wins over the environment, and by that, where the doctor looks at it afterwards. The
    cluster's working directory is not that of the command, so a relative model folder is found only if the driver says
    where it is."""
    shutil.copytree(GOLDEN / "model", tmp_path / "checkpoint")
    monkeypatch.chdir(tmp_path)
    command = golden_command("realign", tmp_path / "run", "--runtime", "ray", "--batch-size", "1", model="checkpoint")
    where = ["--address", address, "--placement", placement]
    done = run_command(*command, *where, more=SAME_ROUNDING | AUTH | {"RAY_ADDRESS": "127.0.0.1:1"})
    assert done.returncode == 0, done.stderr
    rows = golden_rows("realign", tmp_path / "run")
    assert {transfer["transport"] for row in rows for transfer in row["transfers"]} == {WAYS[placement]}
    doctor = run_command("doctor", more=AUTH | {"RAY_ADDRESS": address})
    assert doctor.returncode == 0
    # All four are free again: the run's actors are gone.
    assert f"{address}: 4.0 CPU" in doctor.stdout


BAD_ADDRESSES = {
    "127.0.0.1:1": "a Ray cluster must answer there: Connection refused",
    "ray://127.0.0.1:1": "Ray Client is not supported",
    "no-such-host.invalid:6379": "a Ray cluster must answer there",
    "localhost": "it must be HOST:PORT",
    "localhost:": "its port must be a number",
    "localhost:ray": "its port must be a number",
    "localhost:70000": "its port must be a number",
    "http://127.0.0.1:1": "http is for `ray job submit --address`",
}


@pytest.mark.parametrize("given", ["flag", "environment"])
@pytest.mark.parametrize("bad", BAD_ADDRESSES)
def test_an_address_where_no_cluster_answers_is_one_line(
    no_ray: None, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, bad: str, given: str
) -> None:
    if given == "environment":
        monkeypatch.setenv("RAY_ADDRESS", bad)
    assert main(["ask", QUESTION, *(["--address", bad] if given == "flag" else [])]) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1, err
    name = {"flag": "--address", "environment": "RAY_ADDRESS"}[given]
    assert f"error: {name}: got '{bad}'; {BAD_ADDRESSES[bad]}" in err


def _serve(server: socket.socket, reply: bytes) -> None:
    connection, _ = server.accept()
    with connection:
        connection.sendall(reply)
        connection.recv(1024)  # and stay until the other side goes


@pytest.mark.parametrize("reply", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH_9.6\r\n"])
def test_something_else_that_listens_is_no_cluster(
    no_ray: None, capfd: pytest.CaptureFixture[str], reply: bytes
) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        thread = Thread(target=_serve, args=(server, reply))
        thread.start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert main(["ask", QUESTION, "--address", address]) == 2
        thread.join()
    expected = f"error: --address: got '{address}'; a Ray cluster must answer there: what listens is not Ray's head\n"
    assert capfd.readouterr().err == expected


def test_what_listens_and_is_silent_is_no_cluster(
    no_ray: None, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joining, "_PROBE_SECONDS", 0.5)
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert main(["ask", QUESTION, "--address", address]) == 2
    assert capfd.readouterr().err == (
        f"error: --address: got '{address}'; a Ray cluster must answer there: timed out\n"
    )
