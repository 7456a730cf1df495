"""The real application with its team, without a port: its event loop runs in a thread, and clients in it."""

import asyncio
import json
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx

from latentmas_ray.config import make_config
from latentmas_ray.serve.app import make_app
from latentmas_ray.serve.teams.endpoint import Endpoint
from latentmas_ray.serve.teams.served import ServedTeams

T = TypeVar("T")


@dataclass(frozen=True)
class LoadedEndpoint:
    """An endpoint whose models are loaded."""

    client: httpx.AsyncClient
    endpoint: Endpoint
    loop: asyncio.AbstractEventLoop

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the endpoint's event loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(300)

    def ask(self, text: str, model: str = "latentmas/sequential", **fields: Any) -> httpx.Response:
        """Ask one question."""
        return self.run(self.aask(text, model, **fields))

    async def aask(self, text: str, model: str = "latentmas/sequential", **fields: Any) -> httpx.Response:
        """Ask one question, within the event loop."""
        body = {"model": model, "messages": [{"role": "user", "content": text}], **fields}
        return await self.client.post("/v1/chat/completions", json=body)

    def texts(self, text: str, model: str = "latentmas/sequential", **fields: Any) -> list[str]:
        """Ask one question; return the texts of its answer."""
        return texts_of(self.ask(text, model, **fields))


def texts_of(response: httpx.Response) -> list[str]:
    """The texts of a whole response or of a stream."""
    assert response.status_code == 200, response.text
    if response.headers["content-type"].startswith("application/json"):
        return [choice["message"]["content"] for choice in response.json()["choices"]]
    texts: dict[int, str] = {}
    for chunk in chunks_of(response):
        for choice in chunk["choices"]:
            texts[choice["index"]] = texts.get(choice["index"], "") + (choice["delta"].get("content") or "")
    return [texts[index] for index in sorted(texts)]


def chunks_of(response: httpx.Response) -> list[dict[str, Any]]:
    """The chunks of a stream, which ends with [DONE]."""
    parts = [part for part in response.text.split("\n\n") if part.startswith("data: ")]
    assert parts[-1] == "data: [DONE]"
    return [json.loads(part.removeprefix("data: ")) for part in parts[:-1]]


def records_of(response: httpx.Response) -> list[dict[str, Any]]:
    """The records of a stream's agents."""
    return [chunk["latentmas"] for chunk in chunks_of(response) if "latentmas" in chunk]


@contextmanager
def loaded_endpoint(*topologies: str, **fields: object) -> Iterator[LoadedEndpoint]:
    """Serve a team of these fields of `RunConfig`, and of further topologies."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="endpoint")
    thread.start()
    teams = ServedTeams(make_config({"model": "tiny", "temperature": 0.0, **fields}), topologies)
    app = make_app(teams)
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://localhost", timeout=300)
    loaded = LoadedEndpoint(client, app.state.endpoint, loop)
    lifespan = app.router.lifespan_context(app)
    try:
        loaded.run(_enter(lifespan))
        yield loaded
        loaded.run(_leave(lifespan))
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _enter(lifespan: Any) -> None:
    await lifespan.__aenter__()


async def _leave(lifespan: Any) -> None:
    await lifespan.__aexit__(None, None, None)
