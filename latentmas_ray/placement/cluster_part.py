"""Divides a cluster among the drivers of a run. Pure functions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from latentmas_ray.errors import ConfigError
from latentmas_ray.placement.resources import NodeResources


@dataclass(frozen=True, kw_only=True)
class ClusterPart:
    """The part of a cluster that one driver has: whole nodes, or a share of each node."""

    nodes: tuple[str, ...] | None = None  # their names; None: all
    number: int = 0  # of the share, from 0
    of: int = 1  # shares

    def of_node(self, node: NodeResources) -> NodeResources | None:
        """Return what the driver has of a node; None if it has nothing of it."""
        if self.nodes is not None and node.name not in self.nodes:
            return None
        if self.of == 1:
            return node
        gpus = node.whole_gpus
        num_gpus = gpus // self.of + (self.number < gpus % self.of)
        return replace(node, num_gpus=float(num_gpus), num_cpus=node.num_cpus / self.of)


WHOLE_CLUSTER = ClusterPart()


def divide_nodes(nodes: Sequence[NodeResources], num_drivers: int) -> list[ClusterPart]:
    """Return the part of each driver: as many whole nodes for each, where that comes out even; else a share of every
    node.

    Raises ConfigError if a node has fewer GPUs than drivers that share it.
    """
    if len(nodes) % num_drivers == 0:
        # Unlike nodes are dealt out by their size, so that the parts are alike.
        ordered = sorted(nodes, key=lambda node: (-node.num_gpus, -node.num_cpus, node.name))
        return [
            ClusterPart(nodes=tuple(node.name for node in ordered[number::num_drivers]))
            for number in range(num_drivers)
        ]
    if few := [node for node in nodes if 0 < node.whole_gpus < num_drivers]:
        expected = (
            f"{len(nodes)} nodes cannot be divided evenly, and not every driver can have one of a node's "
            f"{few[0].whole_gpus} GPUs; it must divide the number of nodes, or be at most {few[0].whole_gpus}"
        )
        raise ConfigError("drivers", num_drivers, expected)
    return [ClusterPart(number=number, of=num_drivers) for number in range(num_drivers)]
