"""Every refusal of the whole app is in OpenAI's form. Its models are not loaded: nothing here asks the team."""

import asyncio
from typing import Any

import httpx
import pytest

from latentmas_ray.config import make_config
from latentmas_ray.serve.admission.limits import ServeLimits, hosts_for
from latentmas_ray.serve.app import make_app
from latentmas_ray.serve.teams.served import ServedTeams

CHATS, TEXTS = "/v1/chat/completions", "/v1/completions"
MODEL = "latentmas/sequential"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "How many?"}]}


class App:
    def __init__(self) -> None:
        teams = ServedTeams(make_config({"model": "tiny", "runtime": "local"}))
        self._app = make_app(teams, ServeLimits(allow_hosts=hosts_for("127.0.0.1", None)), loads=False)

    def __call__(self, method: str, path: str, **more: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self._app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8000") as client:
                return await client.request(method, path, **more)

        return asyncio.run(ask())


@pytest.fixture(scope="module")
def app() -> App:
    return App()


@pytest.mark.parametrize(
    ("method", "path", "more", "status", "code", "param"),
    [
        ("GET", "/nope", {}, 404, "not_found", None),
        ("POST", f"{CHATS}/", {"json": CHAT}, 404, "not_found", None),
        ("GET", "/health/", {}, 404, "not_found", None),
        ("GET", "/v1/models/latentmas/nope", {}, 404, "model_not_found", "model"),
        ("GET", "/v1/conversations/x", {}, 404, "conversation_not_found", "latentmas.conversation"),
        ("DELETE", "/v1/conversations/x", {}, 404, "conversation_not_found", "latentmas.conversation"),
        ("GET", "/v1/conversations/a%20b", {}, 400, "invalid_value", "conversation"),
        ("GET", CHATS, {}, 405, "method_not_allowed", None),
        ("POST", "/", {"json": {}}, 405, "method_not_allowed", None),
        ("OPTIONS", CHATS, {}, 405, "method_not_allowed", None),
        ("BREW", "/metrics", {}, 405, "method_not_allowed", None),
        ("POST", CHATS, {"content": b"{}"}, 415, "unsupported_media_type", None),
        ("POST", CHATS, {"json": CHAT, "headers": {"Host": "evil.example"}}, 403, "unknown_host", None),
        ("POST", CHATS, {"json": {**CHAT, "user": "x" * 5_000_000}}, 413, "too_large", None),
        ("POST", TEXTS, {"json": {"model": MODEL, "prompt": "x" * 200_001}}, 413, "too_large", "prompt"),
        ("POST", TEXTS, {"json": {"model": MODEL, "prompt": ["x" * 190_000] * 6}}, 413, "too_large", "prompt"),
        ("POST", TEXTS, {"json": {"model": MODEL, "prompt": ["x"] * 65}}, 400, "invalid_value", "prompt"),
        ("POST", CHATS, {"json": {**CHAT, "n": 17}}, 400, "invalid_value", "n"),
        ("POST", CHATS, {"json": {**CHAT, "tools": [1]}}, 400, "unsupported_parameter", "tools"),
        ("POST", CHATS, {"json": {**CHAT, "model": "gpt"}}, 404, "model_not_found", "model"),
        ("POST", CHATS, {"json": CHAT}, 503, "loading", None),
    ],
)
def test_every_refusal_is_in_openais_form(
    app: App, method: str, path: str, more: dict[str, Any], status: int, code: str, param: str | None
) -> None:
    response = app(method, path, **more)
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (response.status_code, error["code"], error["param"]) == (status, code, param)
    assert len(error["message"].splitlines()) == 1
    assert len(error["message"]) < 1000
    assert response.headers["X-Request-Id"]
    assert (status == 405) == ("Allow" in response.headers)
    assert (status == 503) == ("Retry-After" in response.headers)


def test_a_server_that_loads_says_so(app: App) -> None:
    assert app("GET", "/health").json() == {"status": "ok"}
    ready = app("GET", "/ready")
    assert (ready.status_code, ready.json()) == (503, {"status": "loading"})
