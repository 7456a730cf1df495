"""The resources that actors request can be allocated on any cluster."""

from math import floor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentmas_ray.placement.resources import ActorResources, NodeResources, divide_resources


def nodes(*sizes: tuple[float, float]) -> list[NodeResources]:
    """Nodes of (GPUs, CPUs)."""
    return [NodeResources(num_gpus=gpus, num_cpus=cpus) for gpus, cpus in sizes]


@pytest.mark.parametrize(
    ("num_actors", "cluster", "busy", "num_gpus", "num_cpus", "num_threads"),
    [
        (1, [(0, 2)], 1, 0.0, 1.0, 2),
        (4, [(0, 2)], 1, 0.0, 0.5, 2),
        (4, [(0, 2)], 3, 0.0, 0.5, 1),
        (3, [(0, 2)], 3, 0.0, 0.66, 1),
        (4, [(0, 16)], 3, 0.0, 1.0, 5),
        (7, [(0, 4)], 7, 0.0, 0.57, 1),
        (8, [(0, 4), (0, 4)], 8, 0.0, 1.0, 1),
        (3, [(0, 1), (0, 1)], 3, 0.0, 0.5, 1),  # two thirds of the cores each would fit only twice
        (5, [(0, 0), (0, 4)], 2, 0.0, 0.8, 2),  # a head node without cores of its own
        (4, [(4, 32)], 4, 1.0, 1.0, 8),
        (4, [(8, 32)], 4, 1.0, 1.0, 8),
        (4, [(1, 8)], 4, 0.25, 1.0, 2),
        (4, [(2, 8)], 4, 0.5, 1.0, 2),
        (4, [(3, 8)], 4, 0.5, 1.0, 2),
        (3, [(1, 8)], 3, 0.3333, 1.0, 2),
        (7, [(3, 8)], 7, 0.3333, 1.0, 1),
        (8, [(4, 32), (4, 32)], 4, 1.0, 1.0, 8),
        (9, [(4, 32), (4, 32)], 9, 0.5, 1.0, 3),
        (8, [(0, 64), (8, 4)], 8, 1.0, 0.5, 1),  # the cores of a node without GPUs are of no use
        (2, [(0.5, 4)], 2, 0.0, 1.0, 2),  # half a GPU cannot be divided
    ],
)
def test_shares(
    num_actors: int,
    cluster: list[tuple[float, float]],
    busy: int,
    num_gpus: float,
    num_cpus: float,
    num_threads: int,
) -> None:
    shares = divide_resources(num_actors=num_actors, nodes=nodes(*cluster), busy_actors=busy)
    assert shares == ActorResources(num_gpus=num_gpus, num_cpus=num_cpus, num_threads=num_threads)


def places(share: ActorResources, node: NodeResources) -> int:
    """How many actors Ray can put on `node`; it counts in ten-thousandths."""
    by_cpu = floor(round(node.num_cpus * 10_000) / round(share.num_cpus * 10_000)) if share.num_cpus else 10**9
    if not share.num_gpus:
        return by_cpu
    # An actor with a part of a GPU has that part of one GPU.
    return min(by_cpu, floor(node.num_gpus) * floor(10_000 / round(share.num_gpus * 10_000)))


@given(
    st.integers(1, 200),
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 64)), min_size=1, max_size=5),
    st.integers(1, 200),
)
def test_all_actors_fit(num_actors: int, sizes: list[tuple[int, int]], busy: int) -> None:
    cluster = nodes(*sizes)
    share = divide_resources(num_actors=num_actors, nodes=cluster, busy_actors=busy)
    assert sum(places(share, node) for node in cluster) >= num_actors
    assert share.num_threads >= 1
    assert bool(share.num_gpus) == any(node.num_gpus for node in cluster)
