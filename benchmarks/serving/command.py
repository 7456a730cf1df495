"""`python -m benchmarks serve-equality`, `serve-faults` and `serve-replicas`: their flags."""

from typing import Annotated

import typer

from latentmas_ray.cli.options import whole_numbers
from latentmas_ray.errors import ConfigError

_FAULTS = ("actor", "node", "ingress")


def equality(
    model: Annotated[str, typer.Option(metavar="tiny|FOLDER|HUB_ID", help="of the team")] = "tiny",
    topology: Annotated[str, typer.Option(metavar="NAME", help="a built-in one")] = "sequential",
    method: Annotated[str, typer.Option(metavar="latent|text|single", help="which of its models is asked")] = "latent",
    task: Annotated[str, typer.Option(metavar="NAME|FILE", help="its questions")] = "chain",
    limit: Annotated[int, typer.Option(help="questions", min=1)] = 200,
    latent_steps: Annotated[int, typer.Option(help="of each latent agent", min=0)] = 10,
    max_new_tokens: Annotated[int, typer.Option(help="of an answer", min=1)] = 64,
    dtype: Annotated[str, typer.Option(metavar="auto|float32|bfloat16", help="of the weights")] = "float32",
    runtime: Annotated[str, typer.Option(metavar="ray|local", help="of the server")] = "ray",
    concurrency: Annotated[str, typer.Option(metavar="C,C,…", help="loads")] = "1,16,64",
    as_json: Annotated[bool, typer.Option("--json", help="print the figures as JSON")] = False,
) -> None:
    """Compare answers of a server under load with those of `latentmas ask`, question by question."""
    loads = whole_numbers("concurrency", concurrency, "1,16,64")
    if min(loads) < 1:
        raise ConfigError("concurrency", concurrency, "it must be whole numbers of at least 1, as in 1,16,64")
    from benchmarks.serving.equality import EqualitySettings, measure_equality  # needs torch

    settings = EqualitySettings(
        model=model,
        topology=topology,
        method=method,
        task=task,
        limit=limit,
        latent_steps=latent_steps,
        max_new_tokens=max_new_tokens,
        dtype=dtype,
        runtime=runtime,
        concurrency=loads,
    )
    measure_equality(settings, as_json=as_json)


def faults(
    kinds: Annotated[
        str, typer.Option(metavar="NAME,…", help="what dies: actor, node, ingress")
    ] = "actor,node,ingress",
    requests: Annotated[int, typer.Option(help="streams of each", min=1)] = 500,
    clients: Annotated[int, typer.Option(help="streams at the same time", min=1)] = 16,
    after: Annotated[int, typer.Option(help="answers before it dies", min=1)] = 100,
    model: Annotated[str, typer.Option(metavar="tiny|FOLDER|HUB_ID", help="of the team")] = "tiny",
    topology: Annotated[str, typer.Option(metavar="NAME", help="a built-in one")] = "sequential",
    latent_steps: Annotated[int, typer.Option(help="of each latent agent", min=0)] = 10,
    max_new_tokens: Annotated[int, typer.Option(help="of an answer", min=1)] = 64,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object for each fault")] = False,
) -> None:
    """Let a part of an endpoint of Ray Serve die while it streams, and compare every answer."""
    names = [name.strip() for name in kinds.split(",")]
    if not set(names) <= set(_FAULTS):
        raise ConfigError("kinds", kinds, f"it must be names out of {', '.join(_FAULTS)}")
    if after >= requests:
        raise ConfigError("after", after, f"it must be below the requests, which are {requests}")
    from benchmarks.serving.faults import FaultSettings, measure_fault, show  # needs torch and ray[serve]

    for name in names:
        settings = FaultSettings(
            fault=name,
            requests=requests,
            clients=clients,
            model=model,
            topology=topology,
            latent_steps=latent_steps,
            max_new_tokens=max_new_tokens,
            after=after,
        )
        show(measure_fault(settings), as_json=as_json)


def replicas(
    requests: Annotated[int, typer.Option(help="questions to two teams", min=1)] = 200,
    clients: Annotated[int, typer.Option(help="questions at the same time", min=1)] = 16,
    model: Annotated[str, typer.Option(metavar="tiny|FOLDER|HUB_ID", help="of the team")] = "tiny",
    topology: Annotated[str, typer.Option(metavar="NAME", help="a built-in one")] = "sequential",
    latent_steps: Annotated[int, typer.Option(help="of each latent agent", min=0)] = 10,
    max_new_tokens: Annotated[int, typer.Option(help="of an answer", min=1)] = 64,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object for each part")] = False,
) -> None:
    """Ask an endpoint of Ray Serve with two teams, then one whose second team comes and goes with the load."""
    from benchmarks.serving.replicas import ReplicasSettings, measure_replicas, show  # needs torch and ray[serve]

    settings = ReplicasSettings(
        requests=requests,
        clients=clients,
        model=model,
        topology=topology,
        latent_steps=latent_steps,
        max_new_tokens=max_new_tokens,
    )
    for outcome in measure_replicas(settings):
        show(outcome, as_json=as_json)
