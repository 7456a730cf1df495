"""The replica of a turn: the fewest pending turns, then the nearest memory, then round robin."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from latentmas_ray.placement.routing import least_loaded

_NODES = st.lists(st.integers(0, 3), min_size=1, max_size=2)


@dataclass(frozen=True)
class Placed:
    nodes: tuple[int, ...]


@given(placed=st.lists(st.tuples(st.integers(0, 2), _NODES), min_size=1, max_size=12), data=st.data())
def test_it_is_the_smallest_by_load_then_distance_then_order(
    placed: list[tuple[int, list[int]]], data: st.DataObject
) -> None:
    replicas, loads = [Placed(tuple(nodes)) for _, nodes in placed], [load for load, _ in placed]
    read = data.draw(st.lists(st.integers(0, 4), max_size=4))
    first = data.draw(st.integers(0, 30))

    def cost(index: int) -> tuple[int, int, int]:
        num_remote = sum(node not in replicas[index].nodes for node in read)
        return loads[index], num_remote, (index - first) % len(loads)

    assert least_loaded(replicas, loads, read, first) == min(range(len(loads)), key=cost)
