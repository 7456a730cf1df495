"""The Ray placement group of a plan: a bundle for each actor, or for each GPU whose actors divide it."""

import itertools
import os
import socket
import time
from typing import Self

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from latentmas_ray.actors.detached.places import group_suffix
from latentmas_ray.actors.errors import cluster_errors, ignoring_dead
from latentmas_ray.actors.replicas.waiting import WaitLog, describe_missing_places
from latentmas_ray.placement import Plan, Slot

# How long to wait for the planned nodes. After that they count as taken by other jobs, and Ray may choose other nodes.
PINNED_SECONDS = 15.0
_NODE_LABEL = "ray.io/node-id"
_ANY_NODE = {"memory": 1.0}  # a bundle must ask for something; every node has bytes of memory
_numbers = itertools.count(1)  # of the groups of this process: Ray refuses a name that is in use


class PlacementGroupHandle:
    """A placement group whose bundles are in the order of the plan's shards; those on one GPU have one bundle together
    if they divide it, since Ray would choose the GPU of each part otherwise."""

    def __init__(self, plan: Plan, start_seconds: float, *, detached_run: str | None = None) -> None:
        """Request the planned nodes; `wait` waits for them. `start_seconds`: the limit of all waits, for log lines;
        `detached_run`: the name of its run, if it does not end with this process."""
        self._run = detached_run
        self._lay_out(plan)
        self._requested_at = time.monotonic()
        self.is_pinned = True
        self.group = self._make()
        self._log = WaitLog(self._describe, start_seconds)

    @classmethod
    def of(cls, group: PlacementGroup, plan: Plan) -> Self:
        """Return a handle to a group that has its places, those of `plan`."""
        handle = cls.__new__(cls)
        handle._lay_out(plan)
        handle.group, handle.is_pinned = group, True
        return handle

    def _lay_out(self, plan: Plan) -> None:
        self._plan = plan
        shards = list(plan.shards())
        shares_bundles = plan.divides_gpus and plan.share.num_gpus > 0
        keys: list[Slot | int] = [shard.slot if shares_bundles else index for index, shard in enumerate(shards)]
        members: dict[Slot | int, list[int]] = {}  # of each bundle: the indices of its shards
        for index, key in enumerate(keys):
            members.setdefault(key, []).append(index)
        number = {key: bundle for bundle, key in enumerate(members)}
        self._bundle_of = [number[key] for key in keys]
        self._bundles = [_bundle(plan, shards[indices[0]].slot, len(indices)) for indices in members.values()]
        self._nodes = [plan.request.nodes[shards[indices[0]].slot.node].name for indices in members.values()]

    @staticmethod
    def bundles_of(plan: Plan) -> list[dict[str, float]]:
        """Return what the bundles of a plan ask for, in their order."""
        handle = PlacementGroupHandle.__new__(PlacementGroupHandle)
        handle._lay_out(plan)
        return handle._bundles

    def bundle_of(self, index: int) -> int:
        """Return the bundle of the plan's shard with this index."""
        return self._bundle_of[index]

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
        pins = [{_NODE_LABEL: name} for name in self._nodes] if self.is_pinned else None
        strategy = "SPREAD" if self._plan.strategy == "spread" else "PACK"
        # The name tells others who wait for places who holds them.
        name = f"latentmas_ray on {socket.gethostname()}, process {os.getpid()}, start {next(_numbers)}"
        lifetime = None if self._run is None else "detached"
        name += "" if self._run is None else group_suffix(self._run)
        bundles = [dict(bundle) for bundle in self._bundles]
        return placement_group(bundles, strategy=strategy, name=name, bundle_label_selector=pins, lifetime=lifetime)

    def _describe(self) -> str:
        return describe_missing_places(self._bundles[0], len(self._bundles), self.group.id.hex())


def _bundle(plan: Plan, slot: Slot, num_actors: int) -> dict[str, float]:
    """Return what a bundle of so many actors asks for."""
    num_gpus = 1.0 if num_actors > 1 and plan.share.num_gpus else plan.gpus_of(slot)
    share = {"GPU": num_gpus, "CPU": round(plan.share.num_cpus * num_actors, 2)}
    return {kind: amount for kind, amount in share.items() if amount} or _ANY_NODE
