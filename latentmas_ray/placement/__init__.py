"""Who goes where, computed before anything starts: agents, replicas and shards on nodes and GPUs. Pure Python.

`figures` knows what models weigh, `demand` what agents need for a batch, `shares` and `slots` share nodes out,
`strategies` makes a `plan` of it, and `advice` says what would fit where nothing does.
"""

from latentmas_ray.placement.assignment import ReplicaId, Slot
from latentmas_ray.placement.link_speeds import LinkSpeeds, PlannedTransfer
from latentmas_ray.placement.memory_estimate import ActorMemory, MemoryEstimate, Workload
from latentmas_ray.placement.model_dims import PRESETS, ModelDims, dims_of_config, known_dims
from latentmas_ray.placement.plan import Plan, PlannedActor, PlanRequest, nodes_alike
from latentmas_ray.placement.resources import ActorResources, NodeResources, divide_resources
from latentmas_ray.placement.suggestions import make_plan

__all__ = [
    "PRESETS",
    "ActorMemory",
    "ActorResources",
    "LinkSpeeds",
    "MemoryEstimate",
    "ModelDims",
    "NodeResources",
    "Plan",
    "PlanRequest",
    "PlannedActor",
    "PlannedTransfer",
    "ReplicaId",
    "Slot",
    "Workload",
    "dims_of_config",
    "divide_resources",
    "known_dims",
    "make_plan",
    "nodes_alike",
]
