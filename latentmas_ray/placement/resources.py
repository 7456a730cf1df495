"""Divides a cluster's GPUs and cores among actors. Pure functions."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor


@dataclass(frozen=True, kw_only=True)
class NodeResources:
    """The resources of one machine that Ray can allocate."""

    num_gpus: float
    num_cpus: float
    name: str = ""
    gpu_bytes: int | None = None  # of each GPU; None: unknown
    gpu_name: str = ""  # the kind of its GPUs, as Ray names it; empty: unknown

    @property
    def whole_gpus(self) -> int:
        """The number of whole GPUs; a declared fraction of one does not count."""
        return floor(self.num_gpus)


@dataclass(frozen=True, kw_only=True)
class ActorResources:
    """The resources that every actor requests from Ray, and its torch threads on a CPU."""

    num_gpus: float
    num_cpus: float
    num_threads: int

    @property
    def actors_per_gpu(self) -> int:
        """The most actors that share one GPU; 0 if actors use no GPU."""
        return floor(1 / self.num_gpus + 1e-9) if self.num_gpus else 0

    def places_on(self, node: NodeResources) -> int | None:
        """Return how many actors without GPUs fit on a node; None if unlimited."""
        return floor(node.num_cpus / self.num_cpus + 1e-9) if self.num_cpus else None


def divide_resources(
    *,
    num_actors: int,
    nodes: Sequence[NodeResources],
    busy_actors: int,
    least_per_gpu: int = 1,
    group_size: int = 1,
    num_groups: int | None = None,
) -> ActorResources:
    """Return the resources of each actor: a whole GPU if there are enough, else an equal fraction of one; no GPU on a
    cluster without GPUs.

    A fraction is 1/k for k actors on a GPU, so that actors fill GPUs without a remainder. Cores are divided so that all
    actors fit, since an actor cannot span nodes. Threads are divided among the `busy_actors` that work at the same time
    and not among all: a waiting actor uses no core.

    `least_per_gpu`: put at least this many actors on a GPU. `num_groups`, `group_size`: on cores, each of `num_groups`
    groups of up to `group_size` actors fits on one node.
    """
    num_whole_gpus = sum(node.whole_gpus for node in nodes)
    gpu_nodes = [node for node in nodes if node.num_gpus >= 1]
    if gpu_nodes:
        actors_per_gpu = max(least_per_gpu, ceil(num_actors / num_whole_gpus))
        num_gpus = _floor(1 / actors_per_gpu, 4)
        num_cpus = min(node.num_cpus / min(num_actors, node.whole_gpus * actors_per_gpu) for node in gpu_nodes)
    else:
        num_gpus = 0.0
        num_cpus = _largest_share(num_groups or num_actors, [node.num_cpus for node in nodes]) / group_size
    hosts = [floor(node.num_cpus) for node in gpu_nodes or nodes if node.num_cpus >= 1]
    return ActorResources(
        num_gpus=num_gpus,
        num_cpus=min(1.0, _floor(num_cpus, 2)),
        num_threads=max(1, min(hosts, default=1) // max(1, min(num_actors, busy_actors))),
    )


def _largest_share(num_actors: int, sizes: Sequence[float]) -> float:
    """Return the largest share with which `num_actors` fit on the nodes. The best share fills some node exactly."""
    shares = {size / count for size in sizes if size > 0 for count in range(1, num_actors + 1)}
    fitting = (share for share in shares if sum(floor(size / share + 1e-9) for size in sizes) >= num_actors)
    return max(fitting, default=0.0)


def _floor(value: float, digits: int) -> float:
    return floor(value * 10.0**digits + 1e-9) / 10.0**digits
