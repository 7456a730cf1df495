"""What a start waits for, in log lines: the places that actors ask for, what is free, and who holds the rest."""

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import ray
from ray.util import placement_group_table

from latentmas_ray.actors.agent_actor import Loaded
from latentmas_ray.actors.errors import actor_errors, cluster_errors
from latentmas_ray.errors import ClusterError
from latentmas_ray.units import format_number, format_seconds

FIRST_SECONDS = 10.0  # a shorter wait is not worth a line
NEXT_SECONDS = 30.0
POLL_SECONDS = 5.0  # how often a start checks whether a node has died
_KINDS = ("GPU", "CPU")
_NOTHING = 1e-4  # of a resource: what is left of sums of fractions
_log = logging.getLogger(__name__)


class WaitLog:
    """Logs a line about a wait after `FIRST_SECONDS`, and one every `NEXT_SECONDS` after that."""

    def __init__(self, what: Callable[[], str], limit_seconds: float, clock: Callable[[], float] = time.monotonic):
        """`what` is called for each line and says what is waited for; the wait ends after `limit_seconds`."""
        self._what, self._limit_seconds, self._clock = what, limit_seconds, clock
        self._begin = clock()
        self._due = self._begin + FIRST_SECONDS

    def update(self) -> None:
        """Log a line if one is due."""
        now = self._clock()
        if now < self._due:
            return
        self._due = now + NEXT_SECONDS
        waited, limit = format_seconds(now - self._begin), format_seconds(self._limit_seconds)
        _log.warning("waiting for %s (%s so far; start_timeout is %s)", self._what(), waited, limit)


@dataclass(frozen=True)
class StartingReplica:
    """A replica that loads its model: references that become ready then, and until when that is waited for."""

    loaded: list[ray.ObjectRef]
    deadline: float  # monotonic seconds
    log: WaitLog


def describe_missing_places(bundle: Mapping[str, float], count: int, own_group: str) -> str:
    """Return what `count` actors ask for with a `bundle` of resources each, what is free, and who holds the rest.

    `own_group` is the id of the placement group that waits. Never raises an error of Ray's.
    """
    asked = f"places on the cluster for {count} {'actor' if count == 1 else 'actors'} of {_amounts(bundle)} each"
    try:
        with cluster_errors():
            free, total = ray.available_resources(), ray.cluster_resources()
            groups = placement_group_table()
    except ClusterError:
        return asked
    kinds = [kind for kind in _KINDS if kind in bundle or total.get(kind)]
    parts = [f"{format_number(free.get(kind, 0.0))} of {_amount(kind, total.get(kind, 0.0))}" for kind in kinds]
    line = f"{asked}; free: {', '.join(parts) or 'nothing'}"
    holders = _holders(group for name, group in groups.items() if name != own_group)
    used = Counter({kind: total.get(kind, 0.0) - free.get(kind, 0.0) for kind in kinds})
    if others := {
        kind: amount for kind, amount in (used - sum(holders.values(), Counter())).items() if amount > _NOTHING
    }:
        holders["tasks and actors without a placement group"] = Counter(others)
    if holders:
        line += "; held by " + ", ".join(f"{name} ({_amounts(amounts)})" for name, amounts in holders.items())
    return line


def _holders(groups: Iterable[Mapping[str, object]]) -> "dict[str, Counter[str]]":
    """Return the resources of the placement groups that have their places, by name."""
    holders: dict[str, Counter[str]] = {}
    for group in groups:
        if group.get("state") != "CREATED":
            continue
        name = f"placement group {group.get('name') or group.get('placement_group_id')}"
        bundles = group.get("bundles")
        held = holders.setdefault(name, Counter())
        for bundle in bundles.values() if isinstance(bundles, Mapping) else ():
            held.update({kind: bundle[kind] for kind in _KINDS if kind in bundle})
    return {name: held for name, held in holders.items() if held}


def _amounts(resources: Mapping[str, float]) -> str:
    return " and ".join(_amount(kind, resources[kind]) for kind in _KINDS if resources.get(kind)) or "any resources"


def _amount(kind: str, number: float) -> str:
    return f"{number:g} {kind}" if number == 1 else f"{number:g} {kind}s"


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
