"""The measurement of ways between two nodes: what actors are asked, and what if they do not answer. No Ray."""

from typing import Any

import pytest
import ray
from ray.exceptions import GetTimeoutError

from latentmas_ray.actors.replicas import measure_ways as module
from latentmas_ray.actors.replicas.measure_ways import PROBE_BYTES, WAYS, measure_ways
from latentmas_ray.actors.replicas.sharded import ShardedReplica


class FakeActor:
    """Records the calls of its methods; a call's reference is its name."""

    def __init__(self, name: str, calls: list[tuple[Any, ...]]) -> None:
        self._name, self._calls = name, calls

    def __getattr__(self, method: str) -> Any:
        return FakeMethod(lambda *arguments: self._calls.append((self._name, method, *arguments)))


class FakeMethod:
    def __init__(self, call: Any) -> None:
        self._call = call

    def options(self, *, concurrency_group: str) -> "FakeMethod":
        assert concurrency_group == "side"  # turns may wait in the others
        return self

    def remote(self, *arguments: Any) -> str:
        self._call(*arguments)
        return "reference"


def replicas(calls: list[tuple[Any, ...]]) -> list[ShardedReplica]:
    """Two on the first node, one on the second."""
    places = (("a", "n0"), ("b", "n0"), ("c", "n1"))
    return [ShardedReplica([FakeActor(name, calls)], [node]) for name, node in places]


def test_both_ways_are_measured_in_turn_between_two_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(ray, "get", lambda *_, **__: None)
    found = measure_ways(replicas(calls))
    assert (found.num_bytes, found.seconds.keys(), found.failed) == (PROBE_BYTES, set(WAYS), "")
    assert {call[0] for call in calls} == {"a", "c"}
    sent = [call[2] for call in calls if call[3:] == ("send",)]
    assert sent == [*WAYS] * 6
    assert {call[0] for call in calls if call[3:4] == ("send",)} != {call[0] for call in calls if "receive" in call}
    assert all(call[1:] == ("open_probes", {}, 0) for call in calls[-2:])  # closed again


def test_actors_that_do_not_answer_leave_the_choice_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []

    def get(_: Any, *, timeout: float) -> None:
        assert timeout <= module._TIMEOUT_SECONDS
        raise GetTimeoutError("no answer")

    monkeypatch.setattr(ray, "get", get)
    found = measure_ways(replicas(calls))
    assert (found.seconds, found.failed) == ({}, "no measurement: no answer")
    assert [call[1:] for call in calls[-2:]] == [("open_probes", {}, 0)] * 2
