"""An app that serves real teams in this process, and a client that asks it without a network."""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Self, TypeVar

import httpx

from latentmas_ray.config import make_config
from latentmas_ray.serve.admission.limits import ServeLimits
from latentmas_ray.serve.app import make_app
from latentmas_ray.serve.teams.served import ServedTeams

_T = TypeVar("_T")
# In bfloat16 rounding depends on which questions are written at the same time.
LOCAL: dict[str, Any] = {
    "model": "tiny", "dtype": "float32", "runtime": "local", "latent_steps": 4, "max_new_tokens": 24,
}  # fmt: skip


class TeamApp:
    """The app of a configuration, in an event loop of its own that runs while something is asked. A context manager."""

    def __init__(self, limits: ServeLimits | None = None, topologies: Sequence[str] = (), **fields: Any) -> None:
        self.loop = asyncio.Runner()
        self.teams = ServedTeams(make_config({**LOCAL, **fields}), tuple(topologies))
        self.app = make_app(self.teams, limits, loads=False)
        self.endpoint = self.app.state.endpoint

    def __enter__(self) -> Self:
        self.run(self.teams.start())
        return self

    def __exit__(self, *error: object) -> None:
        self.run(self.endpoint.conversations.aclose())
        self.run(self.endpoint.teams.aclose())
        self.loop.close()

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        return self.loop.run(work)

    async def request(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=None) as client:
            return await client.request(method, path, json=body, headers=headers)

    def ask(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> httpx.Response:
        return self.run(self.request(method, path, body, headers))
