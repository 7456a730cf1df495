"""The MCP server: one tool, `ask_team`, over standard input and output."""

from importlib.metadata import version
from typing import Annotated

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import Field

from latentmas_ray.errors import RunError
from latentmas_ray.serve.mcp_server.asked_team import TeamEndpoint

_ABOUT_TOOL = (
    "Ask a team of LLM agents a question and return its answer. The agents hand over working memory instead of text; "
    "the last one writes the answer. The team remembers nothing of earlier questions: put all that it needs into one."
)


def make_mcp_server(endpoint: TeamEndpoint) -> MCPServer:
    """Return a server whose tool asks this endpoint."""
    server = MCPServer("latentmas", version=version("latentmas-ray"), log_level="WARNING")

    @server.tool(description=_ABOUT_TOOL)
    async def ask_team(
        question: Annotated[str, Field(min_length=1, description="the whole question")],
        team: Annotated[
            str | None, Field(description="which team, such as latentmas/sequential; leave it out for the usual one")
        ] = None,
    ) -> str:
        try:
            return await endpoint.ask(question, team)
        except RunError as error:
            raise ToolError(str(error)) from error

    return server


async def serve_stdio(endpoint: TeamEndpoint) -> None:
    """Serve until standard input ends."""
    async with endpoint:
        await make_mcp_server(endpoint).run_stdio_async()
