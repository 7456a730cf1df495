"""Limits, errors and conversations against the whole app."""

import asyncio
import json
import shutil
from collections.abc import Callable, Iterator
from importlib.resources import as_file, files
from typing import Any

import httpx
import openai
import pytest

from latentmas_ray.serve.admission.keys import ApiKeys, make_key
from latentmas_ray.serve.admission.limits import ServeLimits
from tests.cases.held_turns import hold_turns
from tests.cases.served_app import MODEL, PAIR, ServedApp

JSON = {"Content-Type": "application/json"}
CHATS = "/v1/chat/completions"
LONG = "word " * 39_000  # more tokens than tiny has positions: refused before anything is computed
# A chat template that refuses one word, and shows everything else.
PICKY = """{%- for m in messages -%}{%- if 'REFUSED' in (m['content'] | string) -%}{{-
  raise_exception("not that word") -}}
{%- endif -%}{{ m['role'] }}: {{ m['content'] }}
{% endfor %}assistant:"""


@pytest.fixture(scope="module")
def topology(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("serve") / "pair.yaml"
    path.write_text(PAIR, encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def served(topology: str) -> Iterator[ServedApp]:
    with ServedApp(topology, ServeLimits(max_body_bytes=210_000)) as one:
        yield one


@pytest.fixture(scope="module")
def picky_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model") / "picky"
    with as_file(files("latentmas_ray.models") / "weights" / "tiny") as weights:
        shutil.copytree(weights, folder)
    (folder / "chat_template.jinja").write_text(PICKY, encoding="utf-8")
    return str(folder)


def body(text: str, **fields: Any) -> bytes:
    asked = {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": 2, "temperature": 0}
    return json.dumps({**asked, **fields}).encode()


def error_of(response: httpx.Response) -> dict[str, Any]:
    error: dict[str, Any] = response.json()["error"]
    return error


def together(
    app: ServedApp,
    bodies: list[bytes],
    headers: list[dict[str, str]] | None = None,
    *,
    after_all: Callable[[], object] = list,
) -> list[httpx.Response]:
    """Send requests at the same time; `after_all` is called when each of them runs, waits or is over."""

    async def send(client: httpx.AsyncClient) -> list[httpx.Response]:
        named = headers or [{}] * len(bodies)
        posts = [
            asyncio.create_task(client.post(CHATS, content=one, headers={**JSON, **more}))
            for one, more in zip(bodies, named, strict=True)
        ]
        admission = app.app.state.endpoint.admission
        while sum(one.done() for one in posts) + admission.num_running + admission.num_waiting < len(posts):
            await asyncio.sleep(0.001)
        after_all()
        return await asyncio.gather(*posts)

    return app.run(send)


def test_a_prompt_that_is_too_long_is_400_with_both_numbers(served: ServedApp) -> None:
    short, *others = together(served, [body("How many?"), body(LONG), body("How many?"), body("Why?")])
    error = error_of(others[0])
    assert (others[0].status_code, error["param"], error["code"]) == (400, "messages", "context_length_exceeded")
    assert "positions, model tiny has " in error["message"]
    assert [one.status_code for one in (short, *others[1:])] == [200, 200, 200]


def test_a_stream_of_a_prompt_that_is_too_long_is_400_too(served: ServedApp) -> None:
    response = served.ask("POST", CHATS, body(LONG, stream=True), JSON)
    assert (response.status_code, error_of(response)["code"]) == (400, "context_length_exceeded")


def test_a_completion_names_its_own_field(served: ServedApp) -> None:
    for prompt, code in ((LONG, "context_length_exceeded"), (["How many?"] * 64 + ["Why?"], "invalid_value")):
        content = json.dumps({"model": MODEL, "prompt": prompt, "max_tokens": 2}).encode()
        response = served.ask("POST", "/v1/completions", content, JSON)
        assert (response.status_code, error_of(response)["code"]) == (400, code)
        assert error_of(response)["param"] == "prompt"


def test_latent_steps_that_cannot_fit_are_400(served: ServedApp) -> None:
    response = served.ask("POST", CHATS, body("How many?", latentmas={"latent_steps": 90_000}), JSON)
    assert (response.status_code, error_of(response)["param"]) == (400, "latentmas.latent_steps")


def test_an_unknown_model_is_404(served: ServedApp) -> None:
    response = served.ask("POST", CHATS, body("How many?", model="gpt-5"), JSON)
    assert (response.status_code, error_of(response)["code"]) == (404, "model_not_found")
    assert MODEL in error_of(response)["message"]


def test_a_conversation_reaches_all_agents(served: ServedApp) -> None:
    alone = served.chat().json()["usage"]["prompt_tokens"]
    before = [{"role": "user", "content": "Tom has 3 keys."}, {"role": "assistant", "content": "Yes."}]
    asked = {"role": "user", "content": "How many?"}
    whole = served.chat(messages=[{"role": "system", "content": "Be brief."}, *before, asked]).json()["usage"]
    # Two agents read some ten words more, each.
    assert whole["prompt_tokens"] >= alone + 2 * 10


def test_a_text_that_looks_like_a_template_is_read_as_it_is(served: ServedApp) -> None:
    text = "{{ 7 * 7 }}{% for x in range(10**9) %}x{% endfor %}{{ gold }}"
    answered = served.chat(messages=[{"role": "system", "content": text}, {"role": "user", "content": text}])
    assert answered.status_code == 200
    assert answered.json()["usage"]["prompt_tokens"] > 4 * 20  # of two agents, twice


def test_a_refused_prompt_fails_alone(topology: str, picky_model: str) -> None:
    """The questions that wait while the first is answered are one batch, and one of them ends its run."""
    with ServedApp(topology, model=picky_model) as app:
        responses = together(app, [body(text) for text in ("one", "two", "REFUSED", "three", "four")])
        assert [one.status_code for one in responses] == [200, 200, 400, 200, 200]
        error = error_of(responses[2])
        assert error["param"] == "messages"
        assert "not that word" in error["message"]
        assert (app.teams.num_waiting, app.teams.num_running) == (0, 0)


def test_the_queue_is_bounded_and_keys_have_their_turn(topology: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ann, bob = make_key("ann"), make_key("bob")
    limits = ServeLimits(
        keys=ApiKeys.from_environment(f"{ann.entry},{bob.entry}"), max_running=1, max_waiting=2, requests_per_minute=100
    )
    of_ann, of_bob = ({"Authorization": f"Bearer {one.key}"} for one in (ann, bob))
    with ServedApp(topology, limits) as app:
        assert app.ask("POST", CHATS, body("How many?"), JSON).status_code == 401
        assert app.ask("GET", "/v1/models").status_code == 401
        assert app.ask("GET", "/ready").status_code == 200
        have_come = hold_turns(monkeypatch)
        responses = together(app, [body("How many?")] * 6, [of_ann] * 5 + [of_bob], after_all=have_come.set)
        statuses = [one.status_code for one in responses]
        assert statuses[5] == 200  # the one of bob, though ann's came first
        assert sorted(statuses[:5]) == [200, 200, 429, 429, 429]
        refused = next(one for one in responses if one.status_code == 429)
        assert int(refused.headers["Retry-After"]) >= 1
        assert error_of(refused)["code"] == "queue_full"


def test_memory_in_flight_is_bounded(topology: str) -> None:
    with ServedApp(topology, ServeLimits(max_memory_bytes=2_000_000)) as app:
        assert app.ask("POST", CHATS, body("How many?"), JSON).status_code == 200
        response = app.ask("POST", CHATS, body("word " * 900), JSON)
        assert (response.status_code, error_of(response)["code"]) == (400, "too_much_memory")


def test_a_body_beyond_its_limit_is_413(served: ServedApp) -> None:
    response = served.ask("POST", CHATS, body("x" * 210_000), JSON)
    assert (response.status_code, error_of(response)["code"]) == (413, "too_large")


def test_the_client_raises_its_own_errors(topology: str) -> None:
    key = make_key("ann")
    limits = ServeLimits(keys=ApiKeys.from_environment(key.entry), requests_per_minute=3)

    async def ask(client: httpx.AsyncClient) -> list[tuple[type[Exception], str | None, str | None]]:
        def of(api_key: str) -> openai.AsyncOpenAI:
            return openai.AsyncOpenAI(
                base_url="http://localhost/v1", api_key=api_key, http_client=client, max_retries=0
            )

        found: list[tuple[type[Exception], str | None, str | None]] = []
        asked: list[tuple[str, dict[str, Any]]] = [
            ("lm-wrong", {"model": MODEL}),
            (key.key, {"model": "gpt-5"}),
            (key.key, {"model": MODEL, "temperature": 3}),
            (key.key, {"model": MODEL, "logprobs": True}),
            (key.key, {"model": MODEL}),
        ]
        for api_key, fields in asked:
            try:
                await of(api_key).chat.completions.create(messages=[{"role": "user", "content": "Why?"}], **fields)
            except openai.APIStatusError as error:
                found.append((type(error), error.param, error.code))
        return found

    with ServedApp(topology, limits) as app:
        assert app.run(ask) == [
            (openai.AuthenticationError, None, "invalid_api_key"),
            (openai.NotFoundError, "model", "model_not_found"),
            (openai.BadRequestError, "temperature", "invalid_value"),
            (openai.BadRequestError, "logprobs", "unsupported_parameter"),
            (openai.RateLimitError, None, "rate_limit_exceeded"),
        ]
