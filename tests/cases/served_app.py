"""An endpoint in this process: a small team in front of the embedded model, asked without a network."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, Self, TypeVar

import httpx
from fastapi import FastAPI

from latentmas_ray.config import make_config
from latentmas_ray.serve.admission.limits import ServeLimits
from latentmas_ray.serve.app import make_app
from latentmas_ray.serve.teams.served import ServedTeams

_T = TypeVar("_T")

PAIR = """
name: pair
agents:
  - name: thinker
    system: You think.
    prompt: "{{ question }}"
  - name: writer
    reads: thinker
    thinks: text
    system: You write.
    prompt: "{{ question }} {{ context }}"
"""
MODEL = "latentmas/pair"


class ServedApp:
    """The app with its team, in an event loop of its own that runs while it is asked."""

    def __init__(self, topology: str, limits: ServeLimits | None = None, **fields: Any) -> None:
        config = make_config({"runtime": "local", "model": "tiny", "latent_steps": 2, "batch_size": 4, **fields})
        self.teams = ServedTeams(config.model_copy(update={"topology": topology}))
        self.app: FastAPI = make_app(self.teams, limits)
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()

    def __enter__(self) -> Self:
        self._runner.run(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._runner.run(self._stack.aclose())
        finally:
            self._runner.close()

    async def _start(self) -> None:
        await self._stack.enter_async_context(self.app.router.lifespan_context(self.app))
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=None)
        await self._stack.enter_async_context(self.client)

    def run(self, work: Callable[[httpx.AsyncClient], Awaitable[_T]]) -> _T:
        """Run `work(client)` in the app's event loop."""

        async def working() -> _T:
            return await work(self.client)

        return self._runner.run(working())

    def ask(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> httpx.Response:
        """Return the response to one request."""
        return self.run(lambda client: client.request(method, path, content=body, headers=headers))

    def chat(self, **fields: Any) -> httpx.Response:
        """Return the response to a chat of one question, with other `fields`."""
        asked = {"model": MODEL, "messages": [{"role": "user", "content": "How many?"}], "max_tokens": 2}
        body = json.dumps({**asked, **fields}).encode()
        return self.ask("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
