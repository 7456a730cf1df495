"""Waits for actors that load their model."""

import math
import time
from collections.abc import Sequence

import ray

from latentmas_ray.actors.agent_actor import Loaded
from latentmas_ray.actors.errors import actor_errors
from latentmas_ray.units import format_seconds

POLL_SECONDS = 5.0  # how often a start checks whether a node has died


def get_loaded(references: Sequence[ray.ObjectRef], *, timeout_seconds: float | None = None) -> list[Loaded]:
    """Return what the actors report once loaded. Raises InputError kinds, ActorError, and TimeoutError."""
    with actor_errors("an actor could not load its model", "an actor died while it loaded its model"):
        loaded: list[Loaded] = ray.get(list(references), timeout=timeout_seconds)
    return loaded


def poll_seconds(deadline: float) -> float:
    """Return how long to wait before the next look at the nodes and the deadline; Ray drops fractions of a second."""
    return min(POLL_SECONDS, max(1.0, math.ceil(deadline - time.monotonic())))


def list_names(agents: Sequence[str]) -> str:
    """Return the names, each once."""
    return ", ".join(dict.fromkeys(agents))


def no_place(agents: Sequence[str], start_seconds: float) -> str:
    """Return the message for actors of these agents that found no place within `start_seconds`."""
    return (
        f"after {format_seconds(start_seconds)} (start_timeout) no place was found for the actors of "
        f"{list_names(agents)}: free resources on the cluster or use fewer replicas"
    )


def too_late(agents: Sequence[str], start_seconds: float) -> str:
    """Return the message for actors of these agents that did not load within `start_seconds`."""
    limit = format_seconds(start_seconds)
    return f"the actors of {list_names(agents)} did not load their models within {limit} (start_timeout)"
