"""`latentmas mcp`: a running team as a tool of other agents."""

from importlib.util import find_spec
from typing import Annotated

import typer

from latentmas_ray.config.address import check_base_url
from latentmas_ray.env import client_api_key
from latentmas_ray.errors import ConfigError, RunError

_URL = "http://127.0.0.1:8000/v1"


def mcp(
    url: Annotated[str, typer.Option("--url", metavar="URL", help="base URL of a running server")] = _URL,
    model: Annotated[
        str | None, typer.Option("--model", metavar="NAME", help="as /v1/models lists it (default: the first there)")
    ] = None,
    timeout: Annotated[float, typer.Option("--timeout", metavar="SECONDS", help="of an answer")] = 600.0,
) -> None:
    """Offer the team of a running `latentmas serve` to other agents: an MCP server with the tool ask_team.

    It speaks the Model Context Protocol over standard input and output; the program that uses it starts it. With a
    key, put it into LATENTMAS_API_KEY.
    """
    check_base_url("url", url)
    if model == "":
        raise ConfigError("model", model, "it must be a name, as in latentmas/sequential")
    if not 0 < timeout < float("inf"):
        raise ConfigError("timeout", timeout, "it must be above 0")
    key = client_api_key()
    if find_spec("mcp") is None:
        raise RunError("the Model Context Protocol needs a package: pip install '.[mcp]' in a checkout")
    import anyio

    from latentmas_ray.serve.mcp_server.asked_team import TeamEndpoint
    from latentmas_ray.serve.mcp_server.tool import serve_stdio

    anyio.run(serve_stdio, TeamEndpoint(url, model=model, api_key=key, timeout=timeout))
