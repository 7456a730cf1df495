"""How the server ends, and addresses on which it cannot listen."""

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI

from latentmas_ray.errors import ConfigError, RunError
from latentmas_ray.serve.server import DrainingServer, run_server


class EndOfProcess(BaseException):
    """Stands for the end."""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_at_once(number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    """The start of a cluster may take half an hour, and no request can run yet."""

    def end(code: int) -> None:
        raise EndOfProcess(code)

    monkeypatch.setattr(os, "_exit", end)
    said: list[str] = []
    endpoint: Any = SimpleNamespace(teams=SimpleNamespace(is_ready=False))
    server = DrainingServer(uvicorn.Config(app=lambda: None), endpoint, said.append)
    with pytest.raises(EndOfProcess) as ended:
        server.handle_exit(number, None)
    assert ended.value.args == (0,)
    assert said == [f"{number.name}: stopped while the models were being loaded"]


def draining_server(tell: Callable[[str], None], *, is_ready: bool, drained: list[str]) -> DrainingServer:
    endpoint: Any = SimpleNamespace(
        teams=SimpleNamespace(is_ready=is_ready), num_open=1, drain=lambda: drained.append("drained")
    )
    return DrainingServer(uvicorn.Config(app=lambda: None, timeout_graceful_shutdown=5), endpoint, tell)


@pytest.mark.parametrize("error", [BrokenPipeError, ValueError("I/O operation on closed file"), RuntimeError])
def test_it_drains_although_its_lines_cannot_be_written(error: type[Exception] | Exception) -> None:
    """As after Ctrl-C in `latentmas serve 2>&1 | tee log`, which ends tee, too."""

    def tell(line: str) -> None:
        raise error

    drained: list[str] = []
    server = draining_server(tell, is_ready=True, drained=drained)
    server.handle_exit(signal.SIGINT, None)
    assert (server.should_exit, server.force_exit, drained) == (True, False, ["drained"])
    server.handle_exit(signal.SIGINT, None)
    assert server.force_exit


def test_a_signal_after_the_models_were_closed_is_the_second_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "_exit", lambda code: pytest.fail("the process ended"))
    said: list[str] = []
    server = draining_server(said.append, is_ready=False, drained=[])
    server.should_exit = True
    server.handle_exit(signal.SIGTERM, None)
    assert (server.force_exit, said) == (True, ["SIGTERM again: stopped at once"])


@pytest.mark.parametrize("host", ["", " ", "a..b", "a" * 64, "192.0.2.1"])
def test_an_address_that_is_not_of_this_machine_is_named(host: str) -> None:
    with pytest.raises(ConfigError, match="it must be an address or a name of this machine") as caught:
        run_server(FastAPI(), host=host, port=0, drain_seconds=1, send_seconds=1, tell=print, on_ready=print)
    assert (caught.value.field, caught.value.value) == ("host", host)


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=r"127\.0\.0\.1 cannot be listened on: Address already in use") as caught:
            run_server(
                FastAPI(), host="127.0.0.1", port=port, drain_seconds=1, send_seconds=1, tell=print, on_ready=print
            )
    assert caught.value.field == "port"


def other_end(client: socket.socket) -> socket.socket:
    """The server's socket of a connection within this process."""
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            number = os.dup(int(entry.name))
            try:
                found = socket.socket(fileno=number)
            except OSError:  # of another kind
                os.close(number)
                continue
            with suppress(OSError):
                if found.getpeername() == client.getsockname():
                    return found
            found.close()
    raise AssertionError("the server has not accepted it")


def test_a_small_piece_of_a_stream_leaves_at_once() -> None:
    """With Nagle's algorithm the second piece would wait until the client acknowledges the first one, which it does
    40 ms later."""
    is_over = threading.Event()

    async def load() -> None:
        await asyncio.to_thread(is_over.wait)
        raise RunError("the test is over")

    app = FastAPI()
    app.add_api_route("/", lambda: "here")
    app.state.endpoint = SimpleNamespace(teams=SimpleNamespace(start=load, is_ready=False))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    run = partial(
        run_server, app, host="127.0.0.1", port=port, drain_seconds=1, send_seconds=1, tell=print, on_ready=print
    )
    with ThreadPoolExecutor(1) as threads:
        serving = threads.submit(run)
        try:
            while not serving.done():
                with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)) as client:
                    client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                    assert client.recv(4096).startswith(b"HTTP/1.1 200")
                    with other_end(client) as accepted:
                        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                    break
        finally:
            is_over.set()
        with pytest.raises(RunError, match="the test is over"):
            serving.result()
