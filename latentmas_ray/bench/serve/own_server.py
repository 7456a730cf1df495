"""A server of its own for a benchmark: `latentmas serve` in a process, from its start until it is drained."""

import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from typing import IO

from latentmas_ray.bench.serve.settings import ServeBenchSettings
from latentmas_ray.errors import ConfigError, RunError

_HOST = "127.0.0.1"
_START_SECONDS = 600.0  # a large model is loaded meanwhile
_DRAIN_SECONDS = 60.0
_POLL_SECONDS = 0.5
_SHOWN_BYTES = 4000  # of what it wrote, where it fails
_REFUSED = re.compile(r"error: (--[\w-]+): got '(.*)'; (.*)")


class OwnServer:
    """Starts `latentmas serve` with the given flags: a context manager that gives the base URL and ends it."""

    def __init__(self, flags: Sequence[str]) -> None:
        self._flags = tuple(flags)
        self._port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    @property
    def url(self) -> str:
        """The base URL for clients."""
        return f"http://{_HOST}:{self._port}/v1"

    def __enter__(self) -> "OwnServer":
        command = [sys.executable, "-m", "latentmas_ray", "serve", "--host", _HOST, "--port", str(self._port)]
        self._log = tempfile.TemporaryFile()
        self._process = subprocess.Popen([*command, *self._flags], stdout=self._log, stderr=self._log)
        try:
            self._wait_until_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        assert self._log is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_DRAIN_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        end = time.monotonic() + _START_SECONDS
        while time.monotonic() < end:
            if self._process.poll() is not None:
                if refused := _REFUSED.fullmatch(said := self._last_line()):  # a flag of `server_flags`
                    raise ConfigError(*refused.groups())
                raise RunError(f"the server ended while it started: {said}")
            if _is_ready(f"http://{_HOST}:{self._port}/ready"):
                return
            time.sleep(_POLL_SECONDS)
        raise RunError(f"the server was not ready after {_START_SECONDS:.0f} s: {self._last_line()}")

    def _last_line(self) -> str:
        """Return the last line that the server wrote: its error, if it has one."""
        assert self._log is not None
        end = self._log.seek(0, 2)
        self._log.seek(max(0, end - _SHOWN_BYTES))
        lines = self._log.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "it wrote nothing")


def server_flags(settings: ServeBenchSettings) -> list[str]:
    """Return the flags of `latentmas serve` for these settings."""
    flags = ["--model", settings.model, "--topology", settings.topology]
    if settings.latent_steps is not None:
        flags += ["--latent-steps", str(settings.latent_steps)]
    return flags


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])


def _is_ready(url: str) -> bool:
    with suppress(urllib.error.URLError, ConnectionError, TimeoutError), urllib.request.urlopen(url, timeout=5) as got:
        return bool(got.status == 200)
    return False
