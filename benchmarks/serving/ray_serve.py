"""Ray Serve on the cluster that this process is connected to."""

import socket
import time
from contextlib import suppress
from typing import Any

import psutil
from ray import serve

_WAIT_SECONDS = 300.0  # on a machine that does much else


def start_serve(**http: Any) -> str:
    """Start Ray Serve, and return where it takes requests once it does. Raises TimeoutError after minutes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with suppress(TimeoutError):  # Serve waits a minute for its proxy, which starts all the same
        serve.start(http_options={"host": "127.0.0.1", "port": port, **http})
    end = time.monotonic() + _WAIT_SECONDS
    while time.monotonic() < end:
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
            return f"http://127.0.0.1:{port}"
        time.sleep(0.5)
    raise TimeoutError("Ray Serve's proxy does not answer")


def processes_of(*words: str) -> list[psutil.Process]:
    """Return the processes of this process's cluster whose titles have one of these words."""
    found = []
    for one in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if any(word in " ".join(one.cmdline()[:1]) for word in words):
                found.append(one)
    return found
