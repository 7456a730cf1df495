"""Lets the actors of a former driver join this one, as long as they make progress with what they had begun."""

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import ray

from latentmas_ray.actors.errors import get_outcome, ignoring_dead

REJOIN_SECONDS = 30.0  # without progress, for actors to finish what the former driver had them do
_LOOK_SECONDS = 2.0  # between two looks at their progress
_TELL_SECONDS = 10.0  # until a line says what is waited for
_log = logging.getLogger(__name__)


def rejoin_actors(actors: Mapping[str, Any], nonce: bytes, renewal_seconds: float) -> dict[str, Any]:
    """Let these actors join this driver; return the outcome of those that answered. No longer is waited once none has
    made progress for `REJOIN_SECONDS`. Their leases are renewed meanwhile: some wait for others."""
    calls = {
        actor.rejoin.options(concurrency_group="side").remote(nonce): name
        for name, actor in actors.items()  # a call to a dead actor fails when it is fetched
    }
    waiting, watch = list(calls), _ProgressWatch()
    begun_at = moved_at = time.monotonic()
    is_told = False
    while waiting and (rest := moved_at + REJOIN_SECONDS - time.monotonic()) > 0.0:
        pause = min(rest, renewal_seconds, _LOOK_SECONDS)
        done, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=pause)
        renew_leases(actors.values())
        has_moved = watch.has_moved({calls[one]: actors[calls[one]] for one in waiting})
        now = time.monotonic()
        moved_at = now if done or has_moved else moved_at
        if waiting and not is_told and now - begun_at >= _TELL_SECONDS:
            is_told = True
            names = ", ".join(calls[one].rpartition("/")[0] for one in waiting)
            _log.warning("waiting for %s to end what the former driver had begun", names)
    return {name: get_outcome(call) for call, name in calls.items() if call not in waiting}


def renew_leases(actors: Iterable[Any]) -> None:
    """Let these actors know that the driver lives. Never waits."""
    for actor in actors:
        with ignoring_dead("a lease was not renewed"):
            actor.renew_lease.options(concurrency_group="lease").remote()


class _ProgressWatch:
    """Sees whether actors make progress with their turns: a busy or slow one is not one that hangs."""

    def __init__(self) -> None:
        self._asked: dict[str, ray.ObjectRef] = {}  # without an answer so far
        self._last: dict[str, Any] = {}

    def has_moved(self, actors: Mapping[str, Any]) -> bool:
        """Return whether any has moved on since the answers before; ask again. Never waits."""
        has_moved = False
        for name, actor in actors.items():
            if (asked := self._asked.get(name)) is not None and ray.wait([asked], timeout=0.0)[0]:
                outcome = get_outcome(self._asked.pop(name))
                # Without the seconds, which pass in any case. An actor that has died answers with an error.
                now = [replace(one, seconds=0.0) for one in outcome] if isinstance(outcome, list) else None
                has_moved = has_moved or (name in self._last and now is not None and now != self._last[name])
                self._last[name] = now
            if name not in self._asked:
                with ignoring_dead("the progress of an actor is not known"):
                    self._asked[name] = actor.get_progress.options(concurrency_group="lease").remote()
        return has_moved
