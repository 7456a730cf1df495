"""`latentmas serve`: a team behind an OpenAI-compatible endpoint."""

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

import typer

from latentmas_ray.cli.commands.serving.limit_flags import limit_options
from latentmas_ray.cli.options import run_options, whole_number
from latentmas_ray.config import RunConfig
from latentmas_ray.errors import ConfigError

if TYPE_CHECKING:
    from latentmas_ray.serve.admission.limits import ServeLimits

_PACKAGES = ("fastapi", "uvicorn", "prometheus_client")
_HOW_TO_INSTALL = "it takes {}: pip install 'latentmas-ray[serve]', or pip install '.[serve]' in a checkout"


@run_options(
    "model",
    "models",
    "translation",
    "revision",
    "task",
    "topology",
    "latent_steps",
    "thoughts",
    "dtype",
    "device",
    "temperature",
    "top_p",
    "max_new_tokens",
    "seed",
    "samples",
    "decides",
    "decide_accuracies",
    "batch_size",
    "engine",
    "decode_batch",
    "sampler",
    "placement",
    "replicas",
    "min_replicas",
    "max_replicas",
    "tp",
    "threads",
    "transport",
    "transfer",
    "codec",
    "keep",
    "keep_by",
    "keep_layers",
    "overlap",
    "guard",
    "memory_in_flight",
    "runtime",
    "address",
    "start_timeout",
    "turn_timeout",
    "otel",
    fixed={"batch_size": 16},
    helps={
        "task": "the task whose prompts the agents get, if it has its own",
        "temperature": "of requests that set none; 0 decodes greedily",
        "top_p": "of requests that set none",
        "max_new_tokens": "bound on the tokens of each agent's text, of requests that set none",
        "seed": "of requests that set none",
        "samples": "answers to each question, of requests that set no n",
        "latent_steps": "latent thoughts per latent agent (m), of requests that set none",
        "batch_size": "questions that think together, at most",
    },
)
@limit_options
def serve(
    config: RunConfig,
    limits: "ServeLimits",
    host: Annotated[str, typer.Option("--host", metavar="ADDR", help="0.0.0.0 for other machines")] = "127.0.0.1",
    port: Annotated[str, typer.Option("--port", metavar="N", help="0: one that is free")] = "8000",
    topologies: Annotated[
        str, typer.Option("--topologies", metavar="NAME|FILE,…", help="further topologies that are served")
    ] = "",
    topologies_file: Annotated[
        str | None,
        typer.Option("--topologies-file", metavar="FILE", help="YAML with a list of more, read again at SIGHUP"),
    ] = None,
    drain: Annotated[
        str, typer.Option("--drain-timeout", metavar="S", help="seconds that running requests get after SIGTERM")
    ] = "60",
) -> None:
    """Serve a team as an OpenAI-compatible endpoint.

    Each topology is a model, latentmas/NAME, and also with one agent alone and with agents that talk in text:
    latentmas/NAME/single and latentmas/NAME/text. SIGTERM lets running requests end; a second one stops at once. SIGHUP
    reads all topologies again: requests that run end on the old ones.
    """
    check_installed()
    number = whole_number("port", port, least=0, most=65_535)
    drain_seconds = whole_number("drain_timeout", drain, least=1, most=86_400)
    names = tuple(name.strip() for name in topologies.split(",") if name.strip())
    from latentmas_ray.serve.start_signals import StartSignals

    with StartSignals(_tell).handled() as start:
        from latentmas_ray.serve.admission.limits import is_local
        from latentmas_ray.serve.admission.logs import log_requests
        from latentmas_ray.serve.app import make_app
        from latentmas_ray.serve.reload import TopologyList
        from latentmas_ray.serve.server import check_host, run_server
        from latentmas_ray.serve.teams.served import ServedTeams  # takes seconds (torch, ray)

        check_host(host)
        listed = TopologyList(names, topologies_file)
        try:
            teams = ServedTeams(config, listed.read())
        except ConfigError as error:
            raise listed.located(error) from None
        log_requests()
        if limits.keys is None and not is_local(host):
            _tell(f"note: anyone who reaches {host} may ask: there are no API keys (--api-keys)")
        _tell(f"loading {config.model_names} (process {os.getpid()})")
        run_server(
            make_app(teams, limits, loads=False),
            host=host,
            port=number,
            drain_seconds=drain_seconds,
            send_seconds=limits.send_seconds,
            tell=_tell,
            on_ready=lambda bound: _greet(host, bound, list(teams.models), needs_key=limits.keys is not None),
            topologies=listed,
            start=start,
        )


def _tell(line: str) -> None:
    typer.echo(line, err=True)


def check_installed() -> None:
    """Raise ConfigError without the extra `serve`."""
    if missing := [name for name in _PACKAGES if find_spec(name) is None]:
        raise ConfigError("serve", f"no {missing[0]}", _HOW_TO_INSTALL.format(" and ".join(missing)))


def _greet(host: str, port: int, models: list[str], *, needs_key: bool) -> None:
    """Say where the team is served, and how to ask it."""
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{port}"
    key = ' -H "Authorization: Bearer $KEY"' if needs_key else ""
    body = f'{{"model": "{models[0]}", "messages": [{{"role": "user", "content": "QUESTION"}}]}}'
    typer.echo(f"serving {', '.join(models)}")
    typer.echo(f"at {address}/v1 (a page to ask on: {address}/)")
    typer.echo(f"ask: curl {address}/v1/chat/completions{key} -H 'Content-Type: application/json' -d '{body}'")
