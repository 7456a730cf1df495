"""`latentmas mcp` with the client of the package `mcp`: against a server without a model, in this process and as a
command."""

import asyncio
import sys
from typing import Any

import pytest
from mcp import Client, StdioServerParameters, stdio_client

from latentmas_ray.cli.main import main
from latentmas_ray.serve.mcp_server.asked_team import TeamEndpoint
from latentmas_ray.serve.mcp_server.tool import make_mcp_server
from tests.cases.chat_server import MODELS, chat_server


def called(url: str, model: str | None = None, timeout: float = 30.0, **arguments: Any) -> tuple[bool, str]:
    """Whether the tool failed, and the text that it returned."""

    async def call() -> tuple[bool, str]:
        endpoint = TeamEndpoint(url, model=model, api_key="secret", timeout=timeout)
        async with endpoint, Client(make_mcp_server(endpoint)) as client:
            result = await client.call_tool("ask_team", arguments)
        return bool(result.is_error), result.content[0].text

    return asyncio.run(call())


def test_the_tool_asks_the_first_model_of_the_server() -> None:
    with chat_server() as server:
        assert called(server.url, question="why") == (False, "why is clear")
    assert [body["model"] for body in server.bodies] == [MODELS[0]]
    assert server.keys == {"Bearer secret"}


def test_the_model_of_the_flag_is_asked_unless_the_caller_names_a_team() -> None:
    with chat_server() as server:
        called(server.url, MODELS[1], question="why")
        called(server.url, MODELS[1], question="why", team=MODELS[0])
    assert [body["model"] for body in server.bodies] == [MODELS[1], MODELS[0]]


def test_the_tool_says_what_it_does_and_takes() -> None:
    async def tools() -> Any:
        endpoint = TeamEndpoint("http://127.0.0.1:9/v1", model=None, api_key=None, timeout=1.0)
        async with endpoint, Client(make_mcp_server(endpoint)) as client:
            return (await client.list_tools()).tools

    (tool,) = asyncio.run(tools())
    assert tool.name == "ask_team"
    assert "team" in tool.description
    assert tool.input_schema["required"] == ["question"]
    assert set(tool.input_schema["properties"]) == {"question", "team"}


@pytest.mark.parametrize(
    ("question", "words"),
    [("wrong", "400: no"), ("refused", "429: no"), ("", "question"), ("slow", "in 1 s")],
)
def test_a_refusal_is_an_error_of_the_tool_with_its_reason(question: str, words: str) -> None:
    with chat_server() as server:
        is_error, text = called(server.url, timeout=1.0, question=question)
    assert is_error
    assert words in text
    assert "Traceback" not in text


def test_a_server_that_is_not_there_is_an_error_that_says_how_to_start_one() -> None:
    is_error, text = called("http://127.0.0.1:9/v1", question="why")
    assert is_error
    assert "http://127.0.0.1:9/v1" in text
    assert "latentmas serve" in text


def test_the_command_is_a_server_over_standard_input_and_output() -> None:
    async def ask(url: str) -> tuple[list[str], str]:
        command = StdioServerParameters(
            command=sys.executable, args=["-m", "latentmas_ray", "mcp", "--url", url, "--model", MODELS[1]]
        )
        async with Client(stdio_client(command)) as client:
            tools = [tool.name for tool in (await client.list_tools()).tools]
            result = await client.call_tool("ask_team", {"question": "why"})
        return tools, result.content[0].text

    with chat_server() as server:
        assert asyncio.run(ask(server.url)) == (["ask_team"], "why is clear")
    assert server.bodies[0]["model"] == MODELS[1]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--url", "localhost:8000"], ["url", "localhost:8000"]),
        (["--timeout", "0"], ["timeout", "0"]),
        (["--model", ""], ["model", "latentmas/sequential"]),
    ],
)
def test_bad_flags_are_one_line(flags: list[str], words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["mcp", *flags]) == 2
    error = capfd.readouterr().err
    assert len(error.strip().splitlines()) == 1
    assert all(word in error for word in words), error


def test_a_server_of_another_form_is_an_error_of_the_tool() -> None:
    with chat_server() as server:
        base = server.url.removesuffix("/v1") + "/elsewhere"
        is_error, text = called(base, MODELS[0], question="why")
    assert is_error
    assert "404" in text
