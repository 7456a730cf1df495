"""Clients that do not read their stream: they hold no place of others, and no more than their own time."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from latentmas_ray.serve.admission.limits import ServeLimits
from latentmas_ray.serve.routes import answering
from tests.cases.served_app import MODEL, PAIR, ServedApp

JSON = {"Content-Type": "application/json"}
CHATS = "/v1/chat/completions"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedApp]:
    path: Path = tmp_path_factory.mktemp("topologies") / "pair.yaml"
    path.write_text(PAIR)
    with ServedApp(str(path), ServeLimits(max_running=1), temperature=0.0) as app:
        yield app


def body(**more: Any) -> bytes:
    return json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "How many?"}], **more}).encode()


class Reader:
    """One request, as a server sees it, whose client reads `most` messages and then none."""

    def __init__(self, app: Any, content: bytes, most: int) -> None:
        self._messages = [{"type": "http.request", "body": content, "more_body": False}]
        self._left, self.has_stopped = most, asyncio.Event()
        headers = [(b"content-type", b"application/json"), (b"host", b"localhost")]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": CHATS,
            "raw_path": CHATS.encode(),
            "query_string": b"",
            "headers": headers,
            "client": ("127.0.0.1", 1),
            "server": ("localhost", 80),
        }
        self.task = asyncio.create_task(app(scope, self._receive, self._send))

    async def _receive(self) -> Any:
        if self._messages:
            return self._messages.pop()
        await asyncio.Event().wait()
        return None

    async def _send(self, message: Any) -> None:
        if not self._left:
            self.has_stopped.set()
            await asyncio.Event().wait()  # its buffers are full
        self._left -= 1


def test_the_place_is_free_once_the_team_is_done(served: ServedApp) -> None:
    async def ask(client: httpx.AsyncClient) -> int:
        reader = Reader(served.app, body(stream=True, max_tokens=4), most=2)
        await reader.has_stopped.wait()
        response = await client.post(CHATS, content=body(max_tokens=2), headers=JSON)
        assert served.app.state.endpoint.num_open == 1  # it can still read its own
        reader.task.cancel()
        await asyncio.gather(reader.task, return_exceptions=True)
        return response.status_code

    assert served.run(ask) == 200
    assert served.app.state.endpoint.num_open == 0


def test_a_stream_ends_with_the_time_of_its_request(served: ServedApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "LAST_SECONDS", 0.1)
    endpoint = served.app.state.endpoint
    monkeypatch.setattr(endpoint, "limits", replace(endpoint.limits, request_seconds=2.0))

    async def ask(client: httpx.AsyncClient) -> None:
        reader = Reader(served.app, body(stream=True, max_tokens=4), most=2)
        await reader.task  # it ends by itself

    served.run(ask)
    assert (endpoint.num_open, endpoint.admission.num_running) == (0, 0)
