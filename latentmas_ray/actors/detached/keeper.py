"""Gives the places of a run back whose driver was killed before there were actors that could."""

import os
import secrets
from typing import Any

import ray

from latentmas_ray.actors.detached.lease import DriverLease
from latentmas_ray.actors.detached.places import remove_groups
from latentmas_ray.actors.errors import ignoring_dead

KEEPER = "places"  # the beginning of its name; replicas are named by their agents and a number


class PlaceKeeper:
    """An actor without resources: it removes the placement groups of a run whose driver is silent for too long.

    A group outlives its driver from the moment at which it is asked for, which may be long before it has its places,
    and the actors in it have leases of their own only from their start.
    """

    def __init__(self, run: str, seconds: float) -> None:
        """`run` is the run's namespace."""
        self._run = run
        self._lease = DriverLease(seconds, self._end)
        self._lease.start()

    def renew_lease(self) -> None:
        """The driver lives."""
        self._lease.renew()

    def _end(self) -> None:
        remove_groups(self._run)
        os._exit(0)


def start_keeper(run: str, seconds: float) -> Any:
    """Start the keeper of a run. Ray knows of it when this returns, and starts it without this process, too."""
    made = ray.remote(num_cpus=0, concurrency_groups={"lease": 1})(PlaceKeeper)
    name = f"{KEEPER}/{secrets.token_hex(4)}"
    return made.options(name=name, namespace=run, lifetime="detached").remote(run, seconds)


def end_keeper(keeper: Any) -> None:
    """End a keeper: there are actors now that give the places back, or no places."""
    with ignoring_dead("the keeper of places was not ended"):
        ray.kill(keeper)
