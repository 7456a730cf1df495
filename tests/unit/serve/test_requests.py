"""The bodies of requests: what is accepted, and what each refusal names."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import openai
import pytest

from latentmas_ray.config import make_config
from latentmas_ray.serve.api.errors import ApiError
from latentmas_ray.serve.api.messages import MessageLimits, chat_question
from latentmas_ray.serve.api.requests import ChatRequest, CompletionRequest, parse_chat, parse_completion
from latentmas_ray.serve.routes.asked import team_request
from latentmas_ray.system.serving import TeamVariant
from latentmas_ray.topology import load_topology

CHAT: dict[str, Any] = {"model": "latentmas/sequential", "messages": [{"role": "user", "content": "Why?"}]}
PROMPT: dict[str, Any] = {"model": "latentmas/sequential", "prompt": "Why?"}


def chat(**fields: Any) -> ChatRequest:
    return parse_chat(json.dumps({**CHAT, **fields}).encode())


def sequential(**fields: Any) -> TeamVariant:
    config = make_config({"model": "tiny", **fields})
    return TeamVariant("sequential", cast("Any", SimpleNamespace(config=config, topology=load_topology("sequential"))))


def refusal(body: bytes) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parse_chat(body)
    return caught.value


def refused(**fields: Any) -> ApiError:
    return refusal(json.dumps({**CHAT, **fields}).encode())


def test_every_setting_arrives() -> None:
    request = chat(
        stream=True,
        stream_options={"include_usage": True},
        temperature=0,
        top_p=0.5,
        max_completion_tokens=7,
        stop=["\n", "END"],
        seed=-3,
        n=2,
        user="u",
        metadata={"run": "a"},
        latentmas={"latent_steps": "auto", "memory": "none", "trace": True, "conversation": "c-1"},
    )
    assert (request.temperature, request.top_p, request.max_new_tokens, request.n) == (0.0, 0.5, 7, 2)
    assert request.stops == ("\n", "END")
    assert (request.streams, request.streams_usage) == (True, True)
    assert request.run_seed == 2**63 - 3
    options = request.latentmas
    assert (options.latent_steps, options.memory, options.trace, options.conversation) == (
        "fill:40",
        "none",
        True,
        "c-1",
    )


def test_defaults_are_the_servers() -> None:
    request = chat(latentmas=None, stream=None, stop=None, n=None)
    assert (request.temperature, request.top_p, request.max_new_tokens, request.run_seed) == (None,) * 4
    assert (request.stops, request.n, request.streams, request.streams_usage) == ((), None, False, False)


OFF: list[dict[str, Any]] = [
    {"logprobs": False, "top_logprobs": 0},
    {"tools": [], "tool_choice": "none", "parallel_tool_calls": True, "functions": [], "function_call": "auto"},
    {"response_format": {"type": "text"}, "modalities": ["text"], "audio": None, "prediction": None},
    {"presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}},
    {"store": False, "service_tier": "auto", "reasoning_effort": "none", "verbosity": "medium"},
    {"stream": True, "stream_options": {"include_obfuscation": False}},
]


@pytest.mark.parametrize("fields", OFF)
def test_values_that_ask_for_nothing_are_accepted(fields: dict[str, Any]) -> None:
    assert chat(**fields).messages[0].text == "Why?"


UNSUPPORTED: dict[str, Any] = {
    "logprobs": True,
    "top_logprobs": 5,
    "tools": [{"type": "function"}],
    "tool_choice": "required",
    "functions": [{}],
    "function_call": {"name": "f"},
    "response_format": {"type": "json_object"},
    "modalities": ["text", "audio"],
    "audio": {"voice": "a"},
    "prediction": {"type": "content"},
    "presence_penalty": 0.5,
    "frequency_penalty": False,  # no number
    "logit_bias": {"5": 1},
    "store": True,
    "service_tier": "flex",
    "reasoning_effort": "high",
    "verbosity": "low",
    "web_search_options": {},
    "prompt_cache_key": "k",
}


@pytest.mark.parametrize("field", UNSUPPORTED)
def test_what_a_team_cannot_do_is_refused_by_name(field: str) -> None:
    error = refused(**{field: UNSUPPORTED[field]})
    assert (error.status, error.param, error.type) == (400, field, "invalid_request_error")
    assert error.code in ("unsupported_parameter", "invalid_value")
    assert error.message.startswith(f"{field}: got ")


def client_fields(module: str) -> set[str]:
    """The fields that the installed client can send."""
    text = (Path(openai.__file__).parent / "types" / module).read_text(encoding="utf-8")
    base = text[text.index("CreateParamsBase(TypedDict") :].partition("\nclass ")[0]
    return {*re.findall(r"^    ([a-z_]+): ", base, re.MULTILINE), "stream"}


@pytest.mark.parametrize(
    ("module", "model"),
    [("chat/completion_create_params.py", ChatRequest), ("completion_create_params.py", CompletionRequest)],
)
def test_every_field_of_the_client_is_known(module: str, model: type[ChatRequest] | type[CompletionRequest]) -> None:
    fields = client_fields(module)
    assert len(fields) > 15
    assert fields - set(model.model_fields) == set()


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"temprature": 1}, "temprature"),
    ({"model": 3}, "model"),
    ({"model": ""}, "model"),
    ({"temperature": "1"}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"temperature": 2.5}, "temperature"),
    ({"temperature": float("nan")}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"n": 0}, "n"),
    ({"n": 10**30}, "n"),
    ({"n": 1.0}, "n"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 3, "max_completion_tokens": 4}, "max_completion_tokens"),
    ({"seed": 2**63}, "seed"),
    ({"stop": ["a"] * 5}, "stop"),
    ({"stop": ["a", ""]}, "stop[1]"),
    ({"stop": {"a": 1}}, "stop"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"stream": True, "stream_options": {"usage": True}}, "stream_options.usage"),
    ({"metadata": {"k": 1}}, "metadata.k"),
    ({"metadata": {str(key): "v" for key in range(17)}}, "metadata"),
    ({"messages": []}, "messages"),
    ({"messages": "Why?"}, "messages"),
    ({"messages": [None]}, "messages[0]"),
    ({"messages": [{"content": "Why?"}]}, "messages[0].role"),
    ({"messages": [{"role": "tool", "content": "4"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": ["a"]}]}, "messages[0].content[0]"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"),
    ({"messages": [{"role": "user", "content": "a", "weight": 1}]}, "messages[0].weight"),
    ({"messages": [{"role": "assistant", "content": "a", "tool_calls": [{}]}]}, "messages[0].tool_calls"),
    ({"latentmas": 3}, "latentmas"),
    ({"latentmas": {"steps": 3}}, "latentmas.steps"),
    ({"latentmas": {"latent_steps": -1}}, "latentmas.latent_steps"),
    ({"latentmas": {"latent_steps": True}}, "latentmas.latent_steps"),
    ({"latentmas": {"memory": "deranged"}}, "latentmas.memory"),
    ({"latentmas": {"lens": True}}, "latentmas.lens"),  # its thoughts would have no place
    ({"latentmas": {"lens": True, "trace": False}}, "latentmas.lens"),
    ({"latentmas": {"lens": "yes", "trace": True}}, "latentmas.lens"),
    ({"latentmas": {"conversation": "a/b"}}, "latentmas.conversation"),
]


@pytest.mark.parametrize(("fields", "param"), WRONG)
def test_a_wrong_field_is_named_with_what_would_be_right(fields: dict[str, Any], param: str) -> None:
    error = refused(**fields)
    assert (error.status, error.param) == (400, param)
    assert error.message.startswith(f"{param}: ")
    assert "it must" in error.message or "it is" in error.message or "give one" in error.message
    assert len(error.message.splitlines()) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"3",
        b"\xff\xfe",
        b'{"model": "\\ud800"}',
        b"[" * 10_000,
        b'{"n": ' + b"9" * 6000 + b"}",
    ],
)
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    error = refusal(body)
    assert (error.status, error.code, error.param) == (400, "invalid_json", None)


def test_a_near_name_is_offered() -> None:
    assert "did you mean temperature?" in refused(temprature=1).message


def test_an_answer_that_the_client_sends_back_is_a_message() -> None:
    """As `message.model_dump()` of the client writes it."""
    answer = openai.types.chat.ChatCompletionMessage(role="assistant", content="Because.")
    request = chat(messages=[*CHAT["messages"], answer.model_dump(), {"role": "user", "content": "Sure?"}])
    assert [message.text for message in request.messages] == ["Why?", "Because.", "Sure?"]


def test_parts_of_text_are_one_text() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert chat(messages=[{"role": "user", "content": parts}]).messages[0].text == "one\ntwo"


@pytest.mark.parametrize(("prompt", "prompts"), [("a", ("a",)), (["a", "b"], ("a", "b"))])
def test_a_completion_has_one_prompt_or_several(prompt: Any, prompts: tuple[str, ...]) -> None:
    assert parse_completion(json.dumps({**PROMPT, "prompt": prompt}).encode()).prompts == prompts


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": [[1], [2]]}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"echo": True}, "echo"),
        ({"best_of": 2}, "best_of"),
        ({"logprobs": 0}, "logprobs"),
        ({"suffix": "s"}, "suffix"),
        ({"messages": []}, "messages"),
    ],
)
def test_a_completion_that_cannot_be_is_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse_completion(json.dumps({**PROMPT, **fields}).encode())
    assert (caught.value.status, caught.value.param) == (400, param)


def test_thoughts_are_asked_of_the_whole_batch() -> None:
    with_lens, without = (
        team_request(asked, chat_question(asked, "q0", MessageLimits()), sequential())
        for asked in (chat(latentmas={"trace": True, "lens": True}), chat(latentmas={"trace": True}))
    )
    assert (with_lens.trace, with_lens.lens, without.lens) == (True, True, False)
    assert with_lens.settings.trace
    assert without.settings.trace is None
    assert with_lens.batch_key != without.batch_key  # those without do not pay for it


@pytest.mark.parametrize(("own", "n", "weight"), [(1, None, 1), (1, 1, 1), (1, 16, 16), (4, None, 1), (4, 6, 2)])
def test_a_question_counts_by_its_samples(own: int, n: int | None, weight: int) -> None:
    """In questions with the server's own number of samples, of which it has so many at once."""
    asked = chat(n=n)
    question = chat_question(asked, "q0", MessageLimits())
    assert team_request(asked, question, sequential(samples=own)).weight == weight
