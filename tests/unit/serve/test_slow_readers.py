"""A client that takes nothing of what is sent to it: its connection ends, and so does what is sent."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from latentmas_ray.serve.server import listen


class EndlessApp:
    """Sends for ever. `ended` is set when it can send no more."""

    def __init__(self) -> None:
        self.ended = threading.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while not self.ended.is_set():
                await send({"type": "http.response.body", "body": b"x" * 2**16, "more_body": True})
                if self.is_closed():
                    break
        finally:
            self.ended.set()

    def is_closed(self) -> bool:
        """Whether uvicorn has seen the end of its only connection: it sends nothing from then on, and says nothing."""
        return not self.server.server_state.connections

    server: uvicorn.Server


@pytest.fixture
def port(request: pytest.FixtureRequest) -> Iterator[tuple[int, EndlessApp]]:
    """The port of an endless app, whose clients have as many seconds as the parameter."""
    app = EndlessApp()
    config = uvicorn.Config(app, lifespan="off", log_level="error", ws="none", timeout_graceful_shutdown=1)
    app.server = uvicorn.Server(config)
    listener = listen("127.0.0.1", 0, send_seconds=request.param)
    thread = threading.Thread(target=app.server.run, args=([listener],), daemon=True)
    thread.start()
    yield listener.getsockname()[1], app
    app.server.should_exit = True
    thread.join()


@pytest.mark.parametrize("port", [1.0], indirect=True)
def test_its_connection_is_closed(port: tuple[int, EndlessApp]) -> None:
    number, app = port
    with socket.create_connection(("127.0.0.1", number)) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        while not app.ended.is_set():
            time.sleep(0.05)
        assert not app.server.server_state.connections


@pytest.mark.parametrize("port", [4.0], indirect=True)
def test_one_that_reads_slowly_is_served_on(port: tuple[int, EndlessApp]) -> None:
    """For longer than a client may take nothing."""
    number, app = port
    with socket.create_connection(("127.0.0.1", number)) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        for _ in range(20):
            time.sleep(0.25)
            assert len(client.recv(2**22)) > 0
        assert not app.ended.is_set()
        app.ended.set()
