"""How long a detached actor stays without its driver."""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.placement_group import remove_placement_group

from latentmas_ray.actors.errors import ignoring_dead
from latentmas_ray.authentication import RunKey

REJOIN_PURPOSE = "rejoin"
_LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class Rejoined:
    """What an actor tells a new driver: that it has the run's key, what it has loaded, and its placement group."""

    proof: bytes
    loaded: Any
    placement_group: Any


def prove(key: RunKey, nonce: bytes) -> bytes:
    """Return what only a holder of the key can answer to `nonce`."""
    return key.derive(REJOIN_PURPOSE, nonce)


class DriverLease:
    """Calls `end` once, in a thread of its own, when no driver has renewed it for `seconds`. Time in which this process
    was stopped or held up does not count: no renewal could be read."""

    def __init__(self, seconds: float, end: Callable[[], None], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._end, self._clock = seconds, end, clock
        self._renewed_at = clock()

    def start(self) -> None:
        """Watch from now on."""
        threading.Thread(target=self._watch, name="lease", daemon=True).start()

    def renew(self) -> None:
        """The driver lives. Any thread may call this."""
        self._renewed_at = self._clock()

    @property
    def has_expired(self) -> bool:
        """Whether the driver has been silent for too long."""
        return self._clock() - self._renewed_at > self._seconds

    def _watch(self) -> None:
        pause, looked_at = min(_LOOK_SECONDS, self._seconds), self._clock()
        while not self.has_expired:
            time.sleep(pause)
            now = self._clock()
            self._renewed_at = min(now, self._renewed_at + max(0.0, now - looked_at - pause))
            looked_at = now
        self._end()


def end_with_group() -> None:
    """Give the run's places back, which ends all of its actors; or at least end this process."""
    with ignoring_dead("placement group was not removed"):
        if (group := ray.util.get_current_placement_group()) is not None:
            remove_placement_group(group)
    os._exit(0)
