"""The nodes that the flags of `latentmas plan` describe, or those of this machine or of a running cluster."""

import os
from dataclasses import replace

from latentmas_ray.cli.options import whole_number
from latentmas_ray.errors import ConfigError
from latentmas_ray.placement import NodeResources, nodes_alike
from latentmas_ray.units import parse_bytes

GPU_MEMORY = "80GB"  # assumed for GPUs that are not on this machine: an A100's
CORES_PER_NODE = 64
MAX_NUMBER = 10**7


def nodes_here(
    nodes: str | None, gpus_per_node: str | None, gpu_memory: str | None, cpus_per_node: str | None
) -> tuple[NodeResources, ...]:
    """Return the nodes that the flags describe; values that are not given are those of this machine."""
    here = _gpus_here() if gpus_per_node is None else []
    num_gpus = len(here) if gpus_per_node is None else whole_number("gpus_per_node", gpus_per_node, least=0, most=1024)
    cores = len(os.sched_getaffinity(0)) if not num_gpus or gpus_per_node is None else CORES_PER_NODE
    size = min(here) if here and gpu_memory is None else size_of(gpu_memory or GPU_MEMORY)
    return nodes_alike(
        1 if nodes is None else whole_number("nodes", nodes, least=1, most=4096),
        num_gpus=num_gpus,
        num_cpus=cores
        if cpus_per_node is None
        else whole_number("cpus_per_node", cpus_per_node, least=1, most=MAX_NUMBER),
        gpu_bytes=size if num_gpus else None,
    )


def nodes_at(address: str, *described: str | None) -> tuple[NodeResources, ...]:
    """Return the nodes of a running cluster. Ray does not report the size of GPUs, so that must be given."""
    nodes, gpus_per_node, gpu_memory, cpus_per_node = described
    if nodes or gpus_per_node or cpus_per_node:
        raise ConfigError("address", address, "a running cluster tells its nodes, GPUs and cores: give only gpu_memory")
    from latentmas_ray.actors.cluster import connect

    cluster = connect(address)
    try:
        size = None if gpu_memory is None else size_of(gpu_memory)
        return tuple(replace(node, gpu_bytes=size) for node in cluster.nodes)
    finally:
        cluster.disconnect()


def _gpus_here() -> list[int]:
    """Return the bytes of each GPU of this machine."""
    import torch  # takes seconds

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [torch.cuda.get_device_properties(gpu).total_memory for gpu in range(count)]


def size_of(text: str) -> int:
    try:
        size = parse_bytes(text)
    except ValueError as problem:
        raise ConfigError("gpu_memory", text, str(problem)) from None
    if size < 1:
        raise ConfigError("gpu_memory", text, "it must be a size such as 80GB or 40GiB")
    return size
