"""How a cluster's GPUs and cores are shared out among actors. Pure functions."""

from dataclasses import dataclass
from math import ceil, floor


@dataclass(frozen=True, kw_only=True)
class ActorResources:
    """What every actor asks Ray for, and the torch threads it uses on a CPU."""

    num_gpus: float
    num_cpus: float
    num_threads: int


def share_out(
    *, num_actors: int, cluster_gpus: float, cluster_cpus: float, node_cpus: int, busy_actors: int
) -> ActorResources:
    """A whole GPU each where there are enough, equal fractions of one otherwise, none on a cluster without GPUs.

    Fractions are 1/k for k actors on a GPU, so that they fill GPUs without a remainder. Cores are divided by the
    `busy_actors` that work at the same time, not by all there are: an actor that waits uses no core.
    """
    num_gpus = 0.0
    if cluster_gpus >= 1:
        num_gpus = 1.0 if cluster_gpus >= num_actors else _floor(1 / ceil(num_actors / floor(cluster_gpus)), 4)
    return ActorResources(
        num_gpus=num_gpus,
        num_cpus=min(1.0, _floor(cluster_cpus / num_actors, 2)),
        num_threads=max(1, node_cpus // max(1, min(num_actors, busy_actors))),
    )


def _floor(value: float, digits: int) -> float:
    return floor(value * 10.0**digits) / 10.0**digits
