"""The Ray placement group of a plan: one bundle per actor, and the GPUs that each actor asks for."""

import itertools
import os
import socket
import time
from typing import Self

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from latentmas_ray.actors.errors import cluster_errors, ignoring_dead
from latentmas_ray.actors.replicas.waiting import WaitLog, describe_missing_places
from latentmas_ray.placement import Plan

# How long to wait for the planned nodes. After that they count as taken by other jobs, and Ray may choose other nodes.
PINNED_SECONDS = 15.0
_NODE_LABEL = "ray.io/node-id"
_ANY_NODE = {"memory": 1.0}  # a bundle must ask for something; every node has bytes of memory
_numbers = itertools.count(1)  # of the groups of this process: Ray refuses a name that is in use


def gpus_per_actor(plan: Plan) -> float:
    """Return the number of GPUs, or the fraction of one, that each actor asks Ray for; 0 if the model runs on CPUs."""
    return plan.share.num_gpus


class PlacementGroupHandle:
    """A placement group whose bundles are in the order of the plan's shards."""

    def __init__(self, plan: Plan, start_seconds: float, *, is_detached: bool = False) -> None:
        """Request the planned nodes; `wait` waits for them. `start_seconds`: the limit of all waits, for log lines;
        `is_detached`: it does not end with this process."""
        self._plan, self._lifetime = plan, "detached" if is_detached else None
        share = {"GPU": gpus_per_actor(plan), "CPU": plan.share.num_cpus}
        self._bundle = {kind: amount for kind, amount in share.items() if amount} or _ANY_NODE
        self._requested_at = time.monotonic()
        self.is_pinned = True
        self.group = self._make()
        self._log = WaitLog(self._describe, start_seconds)

    @classmethod
    def of(cls, group: PlacementGroup) -> Self:
        """Return a handle to a group that has its places."""
        handle = cls.__new__(cls)
        handle.group, handle.is_pinned = group, True
        return handle

    def wait(self, timeout_seconds: float) -> bool:
        """Return whether all bundles are placed. After `PINNED_SECONDS`, any nodes with free resources are accepted.

        A plan counts all resources of a cluster, and other jobs may hold some of them.
        """
        with cluster_errors():
            if self.group.wait(timeout_seconds):
                return True
            self._log.update()
            if self.is_pinned and time.monotonic() - self._requested_at > PINNED_SECONDS:
                self.remove()
                self.is_pinned = False
                self.group = self._make()
        return False

    def remove(self) -> None:
        """Release the resources. Safe to call twice."""
        with ignoring_dead("placement group was not removed"):
            if ray.is_initialized():
                remove_placement_group(self.group)

    def _make(self) -> PlacementGroup:
        shards = list(self._plan.shards())
        nodes = self._plan.request.nodes
        pins = [{_NODE_LABEL: nodes[shard.slot.node].name} for shard in shards] if self.is_pinned else None
        strategy = "SPREAD" if self._plan.strategy == "spread" else "PACK"
        # The name tells others who wait for places who holds them.
        name = f"latentmas_ray on {socket.gethostname()}, process {os.getpid()}, start {next(_numbers)}"
        bundles = [dict(self._bundle) for _ in shards]
        return placement_group(
            bundles, strategy=strategy, name=name, bundle_label_selector=pins, lifetime=self._lifetime
        )

    def _describe(self) -> str:
        return describe_missing_places(self._bundle, len(list(self._plan.shards())), self.group.id.hex())
