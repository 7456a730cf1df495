"""Ends of a hand-over in processes of their own: what a benchmark of transports needs of Ray."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from latentmas_ray.actors.cluster import Cluster, connect_as_configured
from latentmas_ray.actors.errors import actor_errors
from latentmas_ray.errors import LatentMASError


class BenchActor:
    """Whatever `make` makes, made and called in this actor."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._made: Any = None

    def call(self, method: str, *arguments: Any, **keywords: Any) -> Any:
        """A call of a method. Not made in the constructor, because an error raised there would reach the caller as a
        dead actor."""
        if self._made is None:
            self._made = self._make()
        return getattr(self._made, method)(*arguments, **keywords)


class Station:
    """The handle of an actor on a node."""

    def __init__(self, make: Callable[[], Any], node_id: str) -> None:
        # No cores are asked for: nothing else of ours runs meanwhile, and it must find a place on exactly this node.
        place = NodeAffinitySchedulingStrategy(node_id, soft=False)
        self._actor = ray.remote(num_cpus=0, scheduling_strategy=place)(BenchActor).remote(make)

    def begin(self, method: str, *arguments: Any, **keywords: Any) -> Any:
        """Begin a call and return a reference to its outcome, which may be an argument of another call."""
        return self._actor.call.remote(method, *arguments, **keywords)

    def call(self, method: str, *arguments: Any, **keywords: Any) -> Any:
        """A call to its end. Raises what it raises, ActorError if the actor is gone."""
        died = "an end of the link is gone, is there enough memory?"
        with actor_errors("an end of the link failed", died, passes=LatentMASError):
            return ray.get(self.begin(method, *arguments, **keywords))

    def end(self) -> None:
        """End the actor."""
        ray.kill(self._actor)


@dataclass(frozen=True)
class BenchNode:
    """A machine of the cluster."""

    node_id: str
    host: str
    store_bytes: float
    memory_bytes: float  # that Ray may give to actors, the object store aside


class BenchCluster:
    """A connection to Ray for as long as the body runs."""

    def __init__(self, address: str | None) -> None:
        self._address = address
        self._cluster: Cluster | None = None

    def __enter__(self) -> "BenchCluster":
        """Raises ConfigError for an address where no cluster answers."""
        self._cluster = connect_as_configured(self._address)
        return self

    def __exit__(self, *_: object) -> None:
        if self._cluster is not None:
            self._cluster.leave()

    def nodes(self) -> list[BenchNode]:
        """The nodes that are alive: first the one where this process runs."""
        own = ray.get_runtime_context().get_node_id()
        nodes = [
            BenchNode(
                node["NodeID"],
                node["NodeManagerAddress"],
                node["Resources"].get("object_store_memory", 0.0),
                node["Resources"].get("memory", 0.0),
            )
            for node in ray.nodes()
            if node["Alive"]
        ]
        return sorted(nodes, key=lambda node: (node.node_id != own, node.node_id))
