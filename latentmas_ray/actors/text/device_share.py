"""Which part of its device an actor has."""

import os

import ray


def device_share(device_type: str) -> float:
    """Return the share of a GPU (`cuda`), or of the node's cores, that Ray has given to this actor."""
    assigned = ray.get_runtime_context().get_assigned_resources()
    if device_type == "cuda":
        return min(1.0, float(assigned.get("GPU", 1.0)))
    return min(1.0, float(assigned.get("CPU", 0.0)) / len(os.sched_getaffinity(0)))
