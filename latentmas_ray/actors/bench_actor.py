"""Runs objects of a benchmark in Ray actors, and lists the cluster's nodes."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from latentmas_ray.actors.cluster import Cluster, connect_as_configured
from latentmas_ray.actors.errors import actor_errors, cluster_errors, memory_errors
from latentmas_ray.errors import ActorError, LatentMASError


class BenchActor:
    """An actor that creates an object with `make` and calls its methods."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._made: Any = None

    def call(self, method: str, *arguments: Any, **keywords: Any) -> Any:
        """Call a method of the object; the first call creates it.

        Not created in the constructor: an error raised there would reach the caller as the death of the actor.
        """
        if self._made is None:
            self._made = self._make()
        return getattr(self._made, method)(*arguments, **keywords)

    def call_with_fetches(self, method: str, references: Sequence[Any], timeout_seconds: float) -> Any:
        """Call a method with functions that get the value of each reference: it decides when and in which thread."""
        return self.call(method, [partial(_get, reference, timeout_seconds) for reference in references])


def _get(reference: Any, timeout_seconds: float) -> Any:
    """Return the value of a reference. Raises LatentMASError kinds."""
    with memory_errors():
        return ray.get(reference, timeout=timeout_seconds)


class BenchActorHandle:
    """A handle to a `BenchActor` on a given node."""

    def __init__(self, make: Callable[[], Any], node_id: str, num_gpus: int = 0) -> None:
        # Asks for no cores: it must fit on exactly this node, and the benchmark runs nothing else meanwhile.
        place = NodeAffinitySchedulingStrategy(node_id, soft=False)
        self._actor = ray.remote(num_cpus=0, num_gpus=num_gpus, scheduling_strategy=place)(BenchActor).remote(make)

    def submit(self, method: str, *arguments: Any, **keywords: Any) -> Any:
        """Start a call; return a reference to its result, which may be an argument of another call."""
        return self._actor.call.remote(method, *arguments, **keywords)

    def submit_reading(self, method: str, references: Sequence[Any], timeout_seconds: float) -> Any:
        """Start a call of a method with functions that get each reference's value, and wait so long for each."""
        return self._actor.call_with_fetches.remote(method, list(references), timeout_seconds)

    def call(self, method: str, *arguments: Any, **keywords: Any) -> Any:
        """Call a method and wait. Raises what it raises, ActorError if the actor died."""
        return get_result(self.submit(method, *arguments, **keywords))

    def kill(self) -> None:
        """Kill the actor."""
        ray.kill(self._actor)


def get_result(reference: Any, timeout_seconds: float | None = None, since: float | None = None) -> Any:
    """Return what a call of an endpoint returned. Raises what it raised, ActorError if the actor died or did not answer
    in time. `since`: when the time began, on the monotonic clock; else it begins now."""
    died = "an endpoint of the link died; is there enough memory?"
    rest = timeout_seconds
    if timeout_seconds is not None and since is not None:
        rest = max(0.0, since + timeout_seconds - time.monotonic())
    try:
        with actor_errors("an endpoint of the link failed", died, passes=LatentMASError):
            return ray.get(reference, timeout=rest)
    except TimeoutError as error:
        raise ActorError(f"an endpoint of the link did not answer within {timeout_seconds:g} s") from error


def wait_until_made(references: Sequence[Any], timeout_seconds: float) -> None:
    """Wait until all these calls have returned, and leave their values where they are. Raises ActorError after the
    time."""
    with cluster_errors("an endpoint of the link cannot be waited for"):
        _, waiting = ray.wait(list(references), num_returns=len(references), timeout=timeout_seconds, fetch_local=False)
    if waiting:
        raise ActorError(f"an endpoint of the link did not send within {timeout_seconds:g} s")


@dataclass(frozen=True)
class BenchNode:
    """A node of the cluster."""

    node_id: str
    host: str
    store_bytes: float
    memory_bytes: float  # for actors, without the object store
    num_gpus: int = 0


class BenchCluster:
    """A context manager that is connected to Ray during its body."""

    def __init__(self, address: str | None) -> None:
        self._address = address
        self._cluster: Cluster | None = None

    def __enter__(self) -> "BenchCluster":
        """Connect. Raises ConfigError if no cluster answers at the address."""
        self._cluster = connect_as_configured(self._address)
        return self

    def __exit__(self, *_: object) -> None:
        if self._cluster is not None:
            self._cluster.disconnect()

    def nodes(self) -> list[BenchNode]:
        """Return the live nodes, this process's node first."""
        own = ray.get_runtime_context().get_node_id()
        nodes = [
            BenchNode(
                node["NodeID"],
                node["NodeManagerAddress"],
                node["Resources"].get("object_store_memory", 0.0),
                node["Resources"].get("memory", 0.0),
                int(node["Resources"].get("GPU", 0)),
            )
            for node in ray.nodes()
            if node["Alive"]
        ]
        return sorted(nodes, key=lambda node: (node.node_id != own, node.node_id))
