"""`python -m benchmarks serve-…`: the flags of what is measured of a server."""

import json
import shlex
from collections.abc import Callable
from dataclasses import asdict
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentmas_ray.cli.options import whole_numbers
from latentmas_ray.errors import ConfigError

if TYPE_CHECKING:
    from benchmarks.serving.first_token import FirstTokenOutcome
    from benchmarks.serving.overhead import OverheadOutcome

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


def overhead(
    model: Annotated[str, typer.Option(metavar="tiny|small|FOLDER", help="of the team; a copy never ends")] = "tiny",
    topology: Annotated[str, typer.Option(metavar="NAME|FILE.yaml", help="the agents")] = "sequential",
    task: Annotated[str, typer.Option(metavar="NAME|FILE", help="its questions")] = "chain",
    limit: Annotated[int, typer.Option(help="questions of a round", min=1)] = 320,
    latent_steps: Annotated[int, typer.Option(help="of each latent agent", min=0)] = 10,
    max_new_tokens: Annotated[int, typer.Option(help="of each answer, exactly", min=1)] = 128,
    batch_size: Annotated[int, typer.Option(help="questions that think together, at most", min=1)] = 16,
    decode_batch: Annotated[int, typer.Option(help="texts that are written at the same time", min=1)] = 16,
    dtype: Annotated[str, typer.Option(metavar="auto|float32|bfloat16", help="of the weights")] = "float32",
    repeats: Annotated[int, typer.Option(help="rounds of both ways", min=1)] = 3,
    document: Annotated[
        Path | None, typer.Option(metavar="FILE.md", help="that gets the figures, between its two lines")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the figures as JSON")] = False,
) -> None:
    """Measure CPU seconds of a server at full load over those of the batch driver, on the same actors."""
    from benchmarks.serving.cost_tables import document_part, overhead_lines
    from benchmarks.serving.overhead import OverheadSettings, measure_overhead

    if document is not None:
        document_part("serve-overhead").check(document)
    settings = OverheadSettings(
        model=model,
        topology=topology,
        task=task,
        limit=limit,
        latent_steps=latent_steps,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        decode_batch=decode_batch,
        dtype=dtype,
        repeats=repeats,
    )
    outcome = measure_overhead(settings, _say)
    _show(
        "serve-overhead",
        outcome,
        overhead_lines(outcome, _typed("serve-overhead", overhead, settings)),
        document,
        as_json=as_json,
    )


def first_token(
    model: Annotated[str, typer.Option(metavar="tiny|FOLDER|HUB_ID", help="of the team")] = "tiny",
    topology: Annotated[str, typer.Option(metavar="NAME|FILE.yaml", help="the agents")] = "sequential",
    task: Annotated[str, typer.Option(metavar="NAME|FILE", help="its questions")] = "chain",
    limit: Annotated[int, typer.Option(help="questions, each asked both ways", min=1)] = 100,
    warm_up: Annotated[int, typer.Option(help="further questions before", min=0)] = 5,
    latent_steps: Annotated[int, typer.Option(help="of each latent agent", min=0)] = 10,
    max_new_tokens: Annotated[int, typer.Option(help="of an answer", min=1)] = 64,
    dtype: Annotated[str, typer.Option(metavar="auto|float32|bfloat16", help="of the weights")] = "float32",
    document: Annotated[
        Path | None, typer.Option(metavar="FILE.md", help="that gets the figures, between its two lines")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the figures as JSON")] = False,
) -> None:
    """Measure the time to the first token of a stream against that of `ask`, on the same actors, one at a time."""
    from benchmarks.serving.cost_tables import document_part, first_token_lines
    from benchmarks.serving.first_token import FirstTokenSettings, measure_first_token

    if document is not None:
        document_part("serve-first-token").check(document)
    settings = FirstTokenSettings(
        model=model,
        topology=topology,
        task=task,
        limit=limit,
        warm_up=warm_up,
        latent_steps=latent_steps,
        max_new_tokens=max_new_tokens,
        dtype=dtype,
    )
    outcome = measure_first_token(settings, _say)
    _show(
        "serve-first-token",
        outcome,
        first_token_lines(outcome, _typed("serve-first-token", first_token, settings)),
        document,
        as_json=as_json,
    )


def _show(
    command: str,
    outcome: "OverheadOutcome | FirstTokenOutcome",
    lines: list[str],
    document: Path | None,
    *,
    as_json: bool,
) -> None:
    from benchmarks.serving.cost_tables import document_part

    if document is not None:
        document_part(command).write(document, lines)
    print(json.dumps(outcome.to_json(), indent=2) if as_json else "\n".join(lines))


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _typed(name: str, command: Callable[..., None], settings: Any) -> str:
    """Return the command line with these settings: those that are not the command's defaults."""
    words = ["python", "-m", "benchmarks", name]
    defaults = {one.name: one.default for one in signature(command).parameters.values()}
    for field, value in asdict(settings).items():
        if value != defaults[field]:
            words += [f"--{field.replace('_', '-')}", str(value)]
    return shlex.join(words)
