"""Replicas, placement groups and a cluster for tests of the manager and the runtime, without Ray and actors."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import ray
from ray.exceptions import GetTimeoutError, RayActorError

from latentmas_ray.actors import manager as fleet_module
from latentmas_ray.actors.agent_actor import Loaded
from latentmas_ray.actors.cluster import Cluster
from latentmas_ray.actors.manager import ReplicaManager
from latentmas_ray.actors.replicas.replica import Replica, SegmentRef, Turn
from latentmas_ray.actors.segment_location import SegmentLocation
from latentmas_ray.engine.turn import TurnResult
from latentmas_ray.errors import ActorError
from latentmas_ray.placement import NodeResources
from tests.cases.memory import SPEC

NODES = ("near", "far")
NUM_CPUS = 2.0  # of each


class Standing(Replica):
    """A replica that computes nothing: it reports its nodes, and each turn as done, or itself as dead."""

    is_dead = False

    def start(self, transport: Any = None) -> list[Any]:
        return list(self.nodes)

    def use(self, transport: Any) -> list[Any]:
        return []

    def call(self) -> list[Any]:
        return [self]  # stands for a reference to its health check

    def submit(self, work: Any, segments: Mapping[str, Any], *, transport: Any, overlap: bool) -> Any:
        self._num_turns += 1
        turn = Turn(self._num_turns, 0.0, (f"report {self._num_turns} of {id(self)}",), {})  # type: ignore[arg-type]
        place = SegmentLocation(self.nodes[0])
        return (SegmentRef(((),), (place,)) if work.thinks == "latent" else None), turn

    def report(self, turn: Turn, *, shares_node: bool) -> TurnResult:
        if self.is_dead:
            raise ActorError("it died")
        return TurnResult(agent="any", prompt_tokens=(), output_token_ids=((1,), (1, 2)))

    def cancel(self, turn: Turn) -> None:
        pass

    def end(self) -> None:
        pass


class StandingFleet(ReplicaManager):
    """A manager that makes no actors."""

    def _make_replica(
        self, replica_id: Any, bundles: Sequence[int], nodes: Sequence[str], *, spec: Any = None
    ) -> Replica:
        return Standing([None], nodes, spec=spec)


class Places:
    """Stands for a placement group that is ready at once."""

    is_pinned = True

    def __init__(self, plan: Any) -> None:
        pass

    def wait(self, timeout_seconds: float) -> bool:
        return True

    def remove(self) -> None:
        pass


def seen(alive: Sequence[str]) -> Cluster:
    """Return a cluster of these nodes."""
    nodes = tuple(NodeResources(name=name, num_gpus=0.0, num_cpus=NUM_CPUS) for name in alive)
    return Cluster(owned=False, nodes=nodes, node_ids=frozenset(alive), store_bytes=dict.fromkeys(alive, 0.0))


def pretend(monkeypatch: pytest.MonkeyPatch, failures: Sequence[Exception] = ()) -> list[str]:
    """Fake a cluster of `NODES`. Returns the list of live nodes, from which a test removes nodes. Replicas on live
    nodes start at once; after a node is lost, starts first raise `failures`."""
    names, left = list(NODES), list(failures)

    def loaded(references: Sequence[Any], *, timeout_seconds: float | None = None) -> list[Loaded]:
        if not set(names).issuperset(references):
            raise GetTimeoutError("its node is gone")
        if len(names) < len(NODES) and left:
            raise left.pop()
        return [Loaded(SPEC, "cpu", node, None, frozenset()) for node in references]

    def nodes() -> list[dict[str, Any]]:
        return [{"NodeID": name, "Alive": True, "Resources": {"CPU": NUM_CPUS}} for name in names]

    monkeypatch.setattr(fleet_module, "PlacementGroupHandle", Places)
    monkeypatch.setattr(fleet_module, "get_loaded", loaded)
    monkeypatch.setattr(ray, "nodes", nodes)

    def get(references: Any, **_: Any) -> list[Any]:
        if isinstance(references, Standing) and references.is_dead:
            raise RayActorError
        return []

    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(ray, "wait", lambda references, **_: (list(references), []))
    return names
