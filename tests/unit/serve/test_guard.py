"""The outermost layer of the app, around a small app of the test."""

import asyncio
import logging
import traceback
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from starlette.responses import StreamingResponse

from latentmas_ray.errors import ConfigError
from latentmas_ray.serve.admission.bodies import HttpExchange
from latentmas_ray.serve.admission.guard import RequestGuard
from latentmas_ray.serve.admission.keys import ApiKeys, make_key
from latentmas_ray.serve.admission.limits import ServeLimits, hosts_for, is_local
from latentmas_ray.serve.admission.logs import ACCESS_LOG, PROMPT_LOG
from latentmas_ray.serve.api.errors import ApiError
from latentmas_ray.serve.api.handlers import add_error_handlers

SECRET = "the secret question"


def small_app() -> FastAPI:
    app = FastAPI()
    add_error_handlers(app)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/v1/echo")
    async def echo(request: Request) -> dict[str, Any]:
        return {"bytes": len(await request.body()), "key": request.state.api_key, "id": request.state.request_id}

    @app.post("/v1/fail")
    async def fail(request: Request) -> None:
        raise KeyError((await request.body()).decode())

    @app.post("/v1/stream")
    async def stream() -> StreamingResponse:
        async def parts() -> AsyncIterator[str]:
            yield "data: 1\n\n"
            yield "data: 2\n\n"

        return StreamingResponse(parts(), media_type="text/event-stream")

    @app.post("/v1/break")
    async def break_off(request: Request) -> StreamingResponse:
        text = (await request.body()).decode()

        async def parts() -> AsyncIterator[str]:
            yield "data: 1\n\n"
            raise KeyError(text)

        return StreamingResponse(parts(), media_type="text/event-stream")

    return app


class Client:
    """Asks an app behind a guard, from code that is not asynchronous."""

    def __init__(self, *, raises: bool = False, **limits: Any) -> None:
        """`raises` what the app leaves to the server, which logs it."""
        self._app, self._raises = RequestGuard(small_app(), ServeLimits(**limits)), raises

    def __call__(self, method: str, path: str, *, address: str = "127.0.0.1", **more: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self._app, raise_app_exceptions=self._raises, client=(address, 123))
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8000") as client:
                return await client.request(method, path, **more)

        return asyncio.run(ask())

    def post(
        self,
        path: str = "/v1/echo",
        body: bytes | Iterator[bytes] = b"{}",
        address: str = "127.0.0.1",
        **headers: str,
    ) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        content: Any = body if isinstance(body, bytes) else parts_of(body)
        sent = {"Content-Type": "application/json", **named}
        return self("POST", path, address=address, content=content, headers=sent)


async def parts_of(parts: Iterator[bytes]) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def refusal(response: httpx.Response) -> tuple[int, str]:
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert response.headers["X-Request-Id"]
    return response.status_code, error["code"]


def test_a_request_keeps_its_id_and_gets_one_without() -> None:
    ask = Client()
    response = ask.post(X_Request_Id="mine-1.2")
    assert (response.headers["X-Request-Id"], response.json()["id"]) == ("mine-1.2", "mine-1.2")
    made = {ask.post(X_Request_Id=given).headers["X-Request-Id"] for given in ("", "a b", "x" * 129, "a\tb")}
    assert len(made) == 4
    assert all(one.startswith("req-") for one in made)


def test_keys_are_asked_for_but_not_by_health() -> None:
    key = make_key("ann")
    ask = Client(keys=ApiKeys.from_environment(key.entry))
    assert refusal(ask.post()) == (401, "invalid_api_key")
    assert refusal(ask.post(Authorization="Bearer lm-wrong")) == (401, "invalid_api_key")
    assert refusal(ask("GET", "/metrics")) == (401, "invalid_api_key")
    assert ask.post(Authorization=f"Bearer {key.key}").json()["key"] == "ann"
    assert ask("GET", "/health").status_code == 200


def test_a_caller_has_a_rate() -> None:
    ann, bob = make_key("ann"), make_key("bob")
    ask = Client(keys=ApiKeys.from_environment(f"{ann.entry},{bob.entry}"), requests_per_minute=2)
    sent = [ask.post(Authorization=f"Bearer {ann.key}") for _ in range(3)]
    assert [one.status_code for one in sent] == [200, 200, 429]
    assert refusal(sent[2]) == (429, "rate_limit_exceeded")
    assert 1 <= int(sent[2].headers["Retry-After"]) <= 30
    assert sent[0].headers["X-RateLimit-Remaining-Requests"] == "1"
    assert ask.post(Authorization=f"Bearer {bob.key}").status_code == 200


@pytest.mark.parametrize(
    ("first", "second", "is_same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("2001:db8::1", "2001:db8::ffff:1", True),  # a client chooses the last half itself
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
    ],
)
def test_without_keys_an_address_has_a_rate(first: str, second: str, is_same: bool) -> None:
    ask = Client(requests_per_minute=1)
    assert ask.post(address=first).status_code == 200
    assert ask.post(address=second).status_code == (429 if is_same else 200)


def test_only_what_asks_the_team_counts() -> None:
    ask = Client(requests_per_minute=1)
    assert [ask("GET", "/health").status_code, ask("GET", "/v1/echo").status_code] == [200, 405]
    assert [ask.post().status_code for _ in range(2)] == [200, 429]
    assert ask("GET", "/v1/echo").status_code == 405


def test_a_body_that_is_too_large_is_413() -> None:
    ask = Client(max_body_bytes=10)
    assert ask.post(body=b"x" * 10).status_code == 200
    assert refusal(ask.post(body=b"x" * 11)) == (413, "too_large")
    assert refusal(ask.post(body=iter([b"x" * 6, b"y" * 6]))) == (413, "too_large")  # says no length


def test_a_body_that_does_not_arrive_is_408() -> None:
    async def never() -> dict[str, Any]:
        await asyncio.sleep(60)
        raise AssertionError("it was given up before")

    async def test() -> None:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(b"content-type", b"application/json"), (b"host", b"localhost")]
        scope = {"type": "http", "method": "POST", "path": "/v1/echo", "headers": headers, "query_string": b""}
        await RequestGuard(small_app(), ServeLimits(body_seconds=0.05))(scope, never, send)
        assert sent[0]["status"] == 408

    asyncio.run(test())


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_what_a_page_can_send_without_asking_is_415(kind: str) -> None:
    assert refusal(Client()("POST", "/v1/echo", content=b"{}", headers={"Content-Type": kind})) == (
        415,
        "unsupported_media_type",
    )


def test_json_with_a_charset_is_json() -> None:
    response = Client()("POST", "/v1/echo", content=b"{}", headers={"Content-Type": "application/json; charset=utf-8"})
    assert response.status_code == 200


PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}


def test_cors_is_off() -> None:
    ask = Client()
    asked = ask("OPTIONS", "/v1/echo", headers={"Origin": "https://a.example", **PREFLIGHT})
    assert asked.status_code == 405
    for response in (asked, ask.post(Origin="https://a.example")):
        assert not [name for name in response.headers if name.startswith("access-control")]


def test_an_allowed_origin_may_ask() -> None:
    ask = Client(allow_origins=("https://a.example",), keys=ApiKeys.from_environment(make_key("ann").entry))
    asked = ask("OPTIONS", "/v1/echo", headers={"Origin": "https://a.example", **PREFLIGHT})
    assert (asked.status_code, asked.headers["Access-Control-Allow-Headers"]) == (204, "authorization")
    assert asked.headers["Access-Control-Allow-Origin"] == "https://a.example"
    assert asked.headers["Access-Control-Allow-Methods"] == "GET, POST, DELETE, OPTIONS"  # conversations are deleted
    denied = ask.post(Origin="https://a.example")  # so that the page can read the error
    assert (denied.status_code, denied.headers["Access-Control-Allow-Origin"]) == (401, "https://a.example")
    other = ask("OPTIONS", "/v1/echo", headers={"Origin": "https://b.example", **PREFLIGHT})
    assert "Access-Control-Allow-Origin" not in other.headers
    assert "Origin" in other.headers["Vary"]


@pytest.mark.parametrize("host", ["evil.example:8000", "localhost.evil.example", ""])
def test_a_page_of_another_name_is_not_the_servers_own(host: str) -> None:
    ask = Client(allow_hosts=hosts_for("127.0.0.1", None))
    assert refusal(ask.post(Host=host)) == (403, "unknown_host")


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "[::1]:8000", "LOCALHOST", "proxy.example"])
def test_a_server_without_keys_is_asked_under_its_names(host: str) -> None:
    ask = Client(allow_hosts=hosts_for("127.0.0.1", None, ["proxy.example"]))
    assert ask.post(Host=host).status_code == 200


@pytest.mark.parametrize("name", ["", "a b", "https://chat.example.org", "chat.example.org:8000", "a/b", "::1", "*"])
def test_a_name_that_no_request_has_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"allow_host: got .* name or an address without scheme and port") as caught:
        hosts_for("127.0.0.1", None, [name])
    assert caught.value.value == name


def test_with_keys_or_on_a_network_any_host_is_taken() -> None:
    keys = ApiKeys.from_environment(make_key("ann").entry)
    assert hosts_for("127.0.0.1", keys) is None
    assert hosts_for("0.0.0.0", None) is None
    assert [is_local(one) for one in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "::", "10.0.0.1", "node-1")] == [
        True,
        True,
        True,
        False,
        False,
        False,
        False,
    ]


def test_every_error_is_in_openais_form() -> None:
    ask = Client()
    assert refusal(ask("GET", "/nothing")) == (404, "not_found")
    other = ask("GET", "/v1/echo")
    assert refusal(other) == (405, "method_not_allowed")
    assert (other.headers["Allow"], other.json()["error"]["message"]) == ("POST", "GET /v1/echo: it takes POST")


def test_a_mistake_of_ours_is_500_and_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        response = Client().post("/v1/fail", body=SECRET.encode())
    assert refusal(response) == (500, "internal")
    assert SECRET not in response.text
    assert SECRET not in caplog.text
    assert "KeyError" in caplog.text
    assert response.headers["X-Request-Id"] in caplog.text


def test_no_mistake_leaves_its_text_to_the_server() -> None:
    assert Client(raises=True).post("/v1/fail", body=SECRET.encode()).status_code == 500
    with pytest.raises(RuntimeError, match="the response broke off") as caught:
        Client(raises=True).post("/v1/break", body=SECRET.encode())
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_the_log_has_a_line_for_each_request_and_no_text(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        Client().post(body=SECRET.encode(), X_Request_Id="r1")
        Client()("GET", "/health")  # asked every few seconds by a cluster
        Client()("GET", "/a%0ab?" + SECRET.replace(" ", "+"))
    lines = [record.getMessage() for record in caplog.records if record.name == ACCESS_LOG.name]
    assert lines[0].startswith("r1 POST /v1/echo 200 key=- ")
    assert f"in={len(SECRET)} " in lines[0]
    assert lines[1].split()[2] == "/a\\nb"
    assert "secret" not in "".join(lines)


def test_prompts_are_logged_where_that_is_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        Client(log_prompts=True).post(body=f"{SECRET}\nsecond line".encode(), X_Request_Id="r1")
    lines = [record.getMessage() for record in caplog.records if record.name == PROMPT_LOG.name]
    assert lines == [f"r1 {SECRET}\\nsecond line"]


def test_a_stream_passes() -> None:
    response = Client().post("/v1/stream")
    assert response.text == "data: 1\n\ndata: 2\n\n"
    assert response.headers["X-Request-Id"]


@pytest.mark.parametrize(
    "limits",
    [
        {"max_body_bytes": 0},
        {"max_running": 0},
        {"max_waiting": -1},
        {"requests_per_minute": 0},
        {"request_seconds": float("inf")},
        {"body_seconds": 0},
        {"allow_origins": ("a.example",)},
        {"allow_origins": ("https://a.example/path",)},
    ],
)
def test_an_impossible_limit_is_named(limits: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        ServeLimits(**limits)
    assert caught.value.field.startswith(next(iter(limits)).removesuffix("s"))


def test_an_exchange_is_refused_by_what_it_receives() -> None:
    async def test() -> None:
        async def receive() -> Any:
            return {"type": "http.request", "body": b"x" * 20, "more_body": False}

        exchange = HttpExchange({"type": "http", "headers": []}, receive, receive, ServeLimits(max_body_bytes=10))
        with pytest.raises(ApiError) as caught:
            await exchange.receive()
        assert caught.value.status == 413

    asyncio.run(test())
