"""How a cluster's GPUs and cores are shared out among actors. Pure functions."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor


@dataclass(frozen=True, kw_only=True)
class NodeResources:
    """What Ray may give away of one machine."""

    num_gpus: float
    num_cpus: float


@dataclass(frozen=True, kw_only=True)
class ActorResources:
    """What every actor asks Ray for, and the torch threads it uses on a CPU."""

    num_gpus: float
    num_cpus: float
    num_threads: int


def share_out(*, num_actors: int, nodes: Sequence[NodeResources], busy_actors: int) -> ActorResources:
    """A whole GPU each where there are enough, equal fractions of one otherwise, none on a cluster without GPUs.

    Fractions are 1/k for k actors on a GPU, so that they fill GPUs without a remainder. The cores asked for are so
    few that all actors find a place, since an actor cannot be spread over nodes. Threads are divided by the
    `busy_actors` that work at the same time, not by all there are: an actor that waits uses no core.
    """
    num_whole_gpus = sum(floor(node.num_gpus) for node in nodes)
    gpu_nodes = [node for node in nodes if node.num_gpus >= 1]
    if gpu_nodes:
        actors_per_gpu = ceil(num_actors / num_whole_gpus)
        num_gpus = _floor(1 / actors_per_gpu, 4)
        num_cpus = min(node.num_cpus / min(num_actors, floor(node.num_gpus) * actors_per_gpu) for node in gpu_nodes)
    else:
        num_gpus = 0.0
        num_cpus = _largest_share(num_actors, [node.num_cpus for node in nodes])
    hosts = [floor(node.num_cpus) for node in gpu_nodes or nodes if node.num_cpus >= 1]
    return ActorResources(
        num_gpus=num_gpus,
        num_cpus=min(1.0, _floor(num_cpus, 2)),
        num_threads=max(1, min(hosts, default=1) // max(1, min(num_actors, busy_actors))),
    )


def _largest_share(num_actors: int, sizes: Sequence[float]) -> float:
    """The largest share of which the nodes together hold `num_actors`; the best one fills some node exactly."""
    shares = {size / count for size in sizes if size > 0 for count in range(1, num_actors + 1)}
    fitting = (share for share in shares if sum(floor(size / share + 1e-9) for size in sizes) >= num_actors)
    return max(fitting, default=0.0)


def _floor(value: float, digits: int) -> float:
    return floor(value * 10.0**digits + 1e-9) / 10.0**digits
