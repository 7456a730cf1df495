"""Runtimes on Ray for tests."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar

from latentmas_ray.actors import RayRuntime
from latentmas_ray.actors.replicas.request import ReplicaRequest
from latentmas_ray.config import replicas_by_agent
from latentmas_ray.transport import ObjectStore

Runtime = TypeVar("Runtime", bound=RayRuntime)

_OF_REQUEST = {one.name for one in fields(ReplicaRequest)}


def runtime_of(
    agents: Sequence[str],
    make_runner: Callable[..., Any],
    *,
    transport: Any = None,
    replicas: int | Mapping[str, int] = 1,
    kind: type[Runtime] = RayRuntime,  # type: ignore[assignment]  # the default of a type variable
    **more: Any,
) -> Runtime:
    """A runtime that is not started. `more` are fields of the request for its replicas, or arguments of the runtime."""
    request = ReplicaRequest(
        agents=tuple(agents),
        replicas=replicas_by_agent(replicas, agents),
        make_runner=make_runner,
        **{name: value for name, value in more.items() if name in _OF_REQUEST},
    )
    rest = {name: value for name, value in more.items() if name not in _OF_REQUEST}
    return kind(request, transport or ObjectStore(), **rest)
