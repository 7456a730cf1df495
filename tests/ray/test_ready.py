"""Which calls of actors are over, as Ray reports it: results, errors, deaths; and calls that were cancelled."""

import gc
import os
import time
from weakref import ref

import pytest
import ray

from latentmas_ray.actors.replicas.ready import ReadyReferences
from tests.ray.actor_cases import PATIENCE_SECONDS

pytestmark = pytest.mark.usefixtures("cluster")


class Named:
    """What a test watches a call for."""

    def __init__(self, name: str) -> None:
        self.name = name


@ray.remote(num_cpus=0, max_concurrency=2)
class Caller:
    """An actor that returns, fails, waits or dies."""

    def give(self) -> int:
        return 1

    def fail(self) -> None:
        raise ValueError("it fails")

    def sleep(self) -> None:
        time.sleep(PATIENCE_SECONDS)

    def die(self) -> None:
        os._exit(1)


def test_calls_are_ready_once_they_end_however_they_end() -> None:
    actor, ready = Caller.remote(), ReadyReferences()
    watched = {name: Named(name) for name in ("give", "fail", "sleep", "die", "dropped")}

    def take() -> set[str]:
        found: list[Named] = ready.take(PATIENCE_SECONDS)
        return {one.name for one in found}

    ready.watch(actor.sleep.remote(), watched["sleep"])
    for name in ("give", "fail"):
        ready.watch(getattr(actor, name).remote(), watched[name])
        assert take() == {name}
    dropped = ref(watched["dropped"])
    ready.watch(actor.give.remote(), watched.pop("dropped"))
    gc.collect()
    assert dropped() is None  # it is not kept for the sake of the call
    begin = time.monotonic()
    assert ready.take(0.2) == []
    assert time.monotonic() - begin >= 0.2
    ready.watch(actor.die.remote(), watched["die"])
    died: set[str] = set()
    while died < {"sleep", "die"}:
        more = take()
        assert more
        died |= more
    assert died == {"sleep", "die"}  # all calls of an actor that died
    ready.watch(actor.give.remote(), watched["give"])  # as are those that come after its death
    assert take() == {"give"}
