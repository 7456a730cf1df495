"""Requests for plans, for the tests of placement."""

from collections.abc import Mapping
from typing import Any

from latentmas_ray.placement import PRESETS, NodeResources, PlanRequest, nodes_alike
from latentmas_ray.topology import load_topology

GB = 10**9


def cluster(num_nodes: int, num_gpus: int, *, gigabytes: int | None = 80) -> tuple[NodeResources, ...]:
    """Nodes with GPUs of `gigabytes` and 64 cores each."""
    size = None if gigabytes is None else gigabytes * GB
    return nodes_alike(num_nodes, num_gpus=num_gpus, num_cpus=64, gpu_bytes=size)


def request(
    nodes: tuple[NodeResources, ...],
    *,
    topology: str = "sequential",
    model: str | None = "qwen3-14b",
    replicas: int | Mapping[str, int] = 1,
    **more: Any,
) -> PlanRequest:
    """A request for a built-in topology; agents that `replicas` does not name have one."""
    made = load_topology(topology)
    names = tuple(agent.name for agent in made.agents)
    counts = replicas if isinstance(replicas, Mapping) else dict.fromkeys(names, replicas)
    return PlanRequest(
        agents=names,
        replicas={name: counts.get(name, 1) for name in names},
        nodes=nodes,
        topology=made,
        model=None if model is None else PRESETS[model],
        **more,
    )
