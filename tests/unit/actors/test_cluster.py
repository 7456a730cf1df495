"""How Ray is started on this machine; no Ray."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.util import client

from latentmas_ray.actors import cluster as cluster_module
from latentmas_ray.actors.cluster import Cluster, connect
from latentmas_ray.errors import ClusterError, ConfigError

LONG = "x" * 60


@pytest.fixture
def inits(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments of each call of `ray.init`, which starts nothing."""
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **arguments: calls.append(arguments))
    monkeypatch.setattr(
        Cluster, "inspect", lambda *, owned: Cluster(owned=owned, nodes=(), node_ids=frozenset(), store_bytes={})
    )
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.delenv("TMPDIR", raising=False)
    return calls


def temp_dir_of(inits: list[dict[str, Any]]) -> str | None:
    connect(None)
    found: str | None = inits[-1]["_temp_dir"]
    return found


@pytest.mark.parametrize("name", ["TMPDIR", "RAY_TMPDIR"])
def test_a_temporary_folder_that_suits_ray_is_used(
    inits: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert temp_dir_of(inits) is None
    monkeypatch.setenv(name, "/tmp")
    assert temp_dir_of(inits) is None
    assert not caplog.records


def _not_writable(folder: Path) -> str:
    folder.chmod(0o500)
    return str(folder / "job")


def _a_file(folder: Path) -> str:
    (folder / "file").touch()
    return str(folder / "file")


BAD_FOLDERS = {
    "too long": (lambda folder: f"/tmp/{LONG}", "too long for Ray's Unix sockets"),
    "too long in bytes": (lambda folder: "/tmp/" + "ü" * 20, "too long for Ray's Unix sockets"),
    "not there and too long": (lambda folder: f"/no/such/{LONG}", "too long for Ray's Unix sockets"),
    "relative": (lambda folder: "scratch", "not an absolute path"),
    "empty": (lambda folder: "", "not an absolute path"),
    "a file": (_a_file, "is not a folder"),
    "not writable": (_not_writable, "is not writable"),
}


@pytest.mark.parametrize("name", ["TMPDIR", "RAY_TMPDIR"])
@pytest.mark.parametrize("bad", BAD_FOLDERS)
def test_another_folder_falls_back_to_a_short_one_in_one_line(
    inits: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    short_folder: Path,
    name: str,
    bad: str,
) -> None:
    if bad == "not writable" and os.getuid() == 0:
        monkeypatch.setattr(os, "access", lambda path, mode: not str(path).startswith(str(short_folder)))
    make, why = BAD_FOLDERS[bad]
    folder = make(short_folder)
    monkeypatch.setenv(name, folder)
    assert temp_dir_of(inits) == "/tmp/ray"
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{name}={folder}: ")
    assert why in record.getMessage()
    assert record.getMessage().endswith("Ray's files of this run are in /tmp")


@pytest.fixture
def short_folder() -> Iterator[Path]:
    folder = Path(f"/tmp/lmr-{os.getpid()}")
    folder.mkdir()
    yield folder
    folder.chmod(0o700)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def test_without_any_short_folder_one_line_names_the_setting(
    inits: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", f"/tmp/{LONG}")
    monkeypatch.setattr(cluster_module, "_SHORT_FOLDERS", (f"/{LONG}",))
    with pytest.raises(ClusterError, match=r"TMPDIR=/tmp/x+: .* set it to a short, writable folder"):
        connect(None)
    assert inits == []


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), PermissionError(13, "denied"), RuntimeError("no")]
)
def test_a_ray_that_cannot_start_is_one_line(
    inits: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(**arguments: Any) -> None:
        raise error

    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(ClusterError, match="Ray cannot start on this machine: "):
        connect(None)


def test_the_handler_of_sigterm_survives_the_start_of_ray(
    inits: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def own(*_: Any) -> None:
        """A handler of the program."""

    monkeypatch.setattr(ray, "init", lambda **_: signal.signal(signal.SIGTERM, lambda *_: None))
    before = signal.signal(signal.SIGTERM, own)
    try:
        connect(None)
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_program_that_uses_ray_client_is_refused(
    inits: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client.ray, "is_connected", lambda: True)
    with pytest.raises(ConfigError, match="Ray Client is not supported"):
        connect(None)
    assert inits == []
