"""The places of a plan's actors on a Ray cluster: one placement group, a bundle for each actor."""

import time

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from latentmas_ray.actors.errors import cluster_errors, ignoring_dead
from latentmas_ray.placement import Plan

# How long the planned nodes are waited for. After that whoever holds them is taken to stay, and Ray may choose others.
PINNED_SECONDS = 15.0
_NODE_LABEL = "ray.io/node-id"
_ANY_PLACE = {"memory": 1.0}  # a bundle must ask for something; every node has bytes of memory


def gpus_per_actor(plan: Plan) -> float:
    """The GPUs, or the fraction of one, that every actor asks Ray for; 0 where the model computes on CPUs."""
    return plan.share.num_gpus


class PlacementGroupHandle:
    """One placement group, whose bundles stand in the order of the plan's shards."""

    def __init__(self, plan: Plan) -> None:
        """Ask for the planned nodes; `wait` says when they are there."""
        self._plan = plan
        share = {"GPU": gpus_per_actor(plan), "CPU": plan.share.num_cpus}
        self._bundle = {kind: amount for kind, amount in share.items() if amount} or _ANY_PLACE
        self._asked_at = time.monotonic()
        self.is_pinned = True
        self.group = self._make()

    def wait(self, timeout_seconds: float) -> bool:
        """Whether all bundles have their places; after `PINNED_SECONDS` on whichever nodes have room.

        A plan reckons with all that a cluster has, and other runs may have taken some of it.
        """
        with cluster_errors():
            if self.group.wait(timeout_seconds):
                return True
            if self.is_pinned and time.monotonic() - self._asked_at > PINNED_SECONDS:
                self.remove()
                self.is_pinned = False
                self.group = self._make()
        return False

    def remove(self) -> None:
        """Give the places back. Safe to call twice."""
        with ignoring_dead("placement group was not removed"):
            if ray.is_initialized():
                remove_placement_group(self.group)

    def _make(self) -> PlacementGroup:
        shards = list(self._plan.shards())
        nodes = self._plan.request.nodes
        pins = [{_NODE_LABEL: nodes[shard.slot.node].name} for shard in shards] if self.is_pinned else None
        strategy = "SPREAD" if self._plan.strategy == "spread" else "PACK"
        return placement_group([dict(self._bundle) for _ in shards], strategy=strategy, bundle_label_selector=pins)
