"""The tool of `latentmas mcp` with the client of the package `mcp`, against the real server."""

import asyncio

from mcp import Client

from latentmas_ray.serve.mcp_server.asked_team import TeamEndpoint
from latentmas_ray.serve.mcp_server.tool import make_mcp_server
from tests.cases.running_server import RunningServer

QUESTION = "Nadia has 5 beads. Then Nadia finds 3 more. How many beads has Nadia now?"


def test_the_tool_returns_the_teams_answer(server: RunningServer) -> None:
    async def ask(team: str) -> tuple[bool, str]:
        endpoint = TeamEndpoint(server.url, model=None, api_key=None, timeout=600.0)
        async with endpoint, Client(make_mcp_server(endpoint)) as client:
            result = await client.call_tool("ask_team", {"question": QUESTION, "team": team})
        return bool(result.is_error), result.content[0].text

    is_error, answer = asyncio.run(ask("latentmas/sequential"))
    assert not is_error
    assert r"\boxed{8}" in answer
    is_error, refusal = asyncio.run(ask("latentmas/mistyped"))
    assert is_error
    assert "latentmas/sequential" in refusal
