"""Fake replicas, placement groups and clusters for tests of the manager and the runtime: no Ray, no actors."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import ray
from ray.exceptions import GetTimeoutError, RayActorError

from latentmas_ray.actors import manager as manager_module
from latentmas_ray.actors.agent_actor import Loaded
from latentmas_ray.actors.cluster import Cluster
from latentmas_ray.actors.manager import ReplicaManager
from latentmas_ray.actors.replicas.ready import ReadyReferences
from latentmas_ray.actors.replicas.replica import Replica, SegmentLocation, SegmentRef, Turn
from latentmas_ray.engine.turn import TurnResult
from latentmas_ray.errors import ActorError
from latentmas_ray.placement import NodeResources
from tests.cases.memory import SPEC

NODES = ("near", "far")
NUM_CPUS = 2.0  # per node


class FakeReplica(Replica):
    """A replica without actors: it starts at once, and its turns succeed unless it `is_dead`."""

    is_dead = False

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.ended: list[str] = []  # hosts
        self.given_up: list[str] = []  # segments

    def start(self, transport: Any = None) -> list[Any]:
        return list(self.nodes)

    def use_transport(self, transport: Any) -> list[Any]:
        return []

    def ping(self) -> list[Any]:
        return [self]  # stands for a reference to its answer

    def submit(self, work: Any, segments: Mapping[str, Any], *, transport: Any, overlap: bool) -> Any:
        self._num_turns += 1
        turn = Turn(self._num_turns, 0.0, (f"result {self._num_turns} of {id(self)}",), {})  # type: ignore[arg-type]
        location = SegmentLocation(self.nodes[0])
        return (SegmentRef(((),), (location,)) if work.thinks == "latent" else None), turn

    def result(self, turn: Turn) -> TurnResult:
        if self.is_dead:
            raise ActorError("it died")
        return TurnResult(agent="any", prompt_tokens=(), output_token_ids=((1,), (1, 2)))

    def cancel(self, turn: Turn) -> None:
        pass

    def end_connections(self, host: str) -> None:
        self.ended.append(host)

    def stop_waiting(self, segment_ids: Sequence[str]) -> None:
        self.given_up.extend(segment_ids)

    def shut_down(self) -> None:
        pass


class FakeManager(ReplicaManager):
    """Creates replicas without actors."""

    def _make_replica(self, replica_id: Any, seat: Any, *, spec: Any = None) -> Replica:
        return FakeReplica([None], seat.nodes, name=str(replica_id), spec=spec)


class FakeReferences(ReadyReferences):
    """References of `FakeReplica`, of which `ray.wait`, as a test has it, says which are ready."""

    def __init__(self) -> None:
        self._watched: dict[Any, Any] = {}

    def watch(self, reference: Any, what: object) -> None:
        self._watched[reference] = what

    def take(self, timeout_seconds: float) -> list[Any]:
        ready, _ = ray.wait(list(self._watched), num_returns=len(self._watched), timeout=timeout_seconds)
        return [self._watched.pop(reference) for reference in ready]


class FakePlacementGroup:
    """A placement group that is ready at once."""

    is_pinned = True

    def __init__(self, plan: Any, start_seconds: float, *, detached_run: str | None = None) -> None:
        pass

    def wait(self, timeout_seconds: float) -> bool:
        return True

    def bundle_of(self, index: int) -> int:
        return index

    def remove(self) -> None:
        pass


def cluster_of(alive: Sequence[str]) -> Cluster:
    """A cluster of these nodes."""
    nodes = tuple(NodeResources(name=name, num_gpus=0.0, num_cpus=NUM_CPUS) for name in alive)
    return Cluster(
        owned=False,
        nodes=nodes,
        node_ids=frozenset(alive),
        store_bytes=dict.fromkeys(alive, 0.0),
        addresses={name: (name, 1) for name in alive},
    )


def _address_of(name: str) -> dict[str, Any]:
    return {"NodeManagerAddress": name, "NodeManagerPort": 1}


def fake_cluster(monkeypatch: pytest.MonkeyPatch, failures: Sequence[Exception] = ()) -> list[str]:
    """Fake a cluster of `NODES`; return the names of its live nodes, which a test may remove.

    Replicas on live nodes start at once; after a node was removed, `failures` are raised first.
    """
    names, left = list(NODES), list(failures)

    def loaded(references: Sequence[Any], *, timeout_seconds: float | None = None) -> list[Loaded]:
        if not set(names).issuperset(references):
            raise GetTimeoutError("its node is gone")
        if len(names) < len(NODES) and left:
            raise left.pop()
        return [Loaded(SPEC, "cpu", node, None, frozenset()) for node in references]

    def nodes() -> list[dict[str, Any]]:
        return [{"NodeID": name, "Alive": True, "Resources": {"CPU": NUM_CPUS}, **_address_of(name)} for name in names]

    monkeypatch.setattr(manager_module, "PlacementGroupHandle", FakePlacementGroup)
    monkeypatch.setattr(manager_module, "get_loaded", loaded)
    monkeypatch.setattr(ray, "nodes", nodes)

    def get(references: Any, **_: Any) -> list[Any]:
        if isinstance(references, FakeReplica) and references.is_dead:
            raise RayActorError
        return []

    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(ray, "wait", lambda references, **_: (list(references), []))
    return names
