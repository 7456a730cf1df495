"""Placement: assigns agents, replicas and ranks to nodes and GPUs before anything starts. Pure Python.

model_dims       sizes of a model: parameters, bytes of KV per token
memory_estimate  tokens and memory that each agent's turn needs
cache_size       bytes of the cache of an engine that writes texts
gpu_memory       whether the memory of a GPU suffices for the actors on it
resources        GPUs, cores and threads of one actor
cluster_part     the part of a cluster that one of several drivers has
assignment       the node and GPU of each rank: packed or spread
plan             PlanRequest and Plan
hardware         published figures of GPUs and processors
link_speeds      the link between two ranks, and the seconds of a transfer
strategies       from a request to a plan, or to the reason why there is none
routing          the replica of a turn, among those of its agent
suggestions      the nearest requests that fit
turn_costs       predicted seconds of a turn
throughput       predicted questions per second of a plan
layouts          how many devices host which agents: those worth trying
layout_plans     the plan of a layout, and whether its memory fits
layout_search    the layout of a whole cluster with the most questions per second
run_layout       the layout of a run: what is reported of it, and what the run reaches
"""

from latentmas_ray.placement.assignment import ReplicaId, Slot
from latentmas_ray.placement.cluster_part import WHOLE_CLUSTER, ClusterPart, divide_nodes
from latentmas_ray.placement.link_speeds import LinkSpeeds, PlannedTransfer
from latentmas_ray.placement.memory_estimate import ActorMemory, MemoryEstimate, Workload
from latentmas_ray.placement.model_dims import PRESETS, ModelDims, dims_of_config, known_dims
from latentmas_ray.placement.plan import Plan, PlannedActor, PlanRequest, nodes_alike
from latentmas_ray.placement.prediction.hardware import HARDWARE, Hardware, hardware_named, hardware_of_device
from latentmas_ray.placement.prediction.run_layout import AS_ASKED_FOR, ActorPlanner, RunLayout
from latentmas_ray.placement.resources import ActorResources, NodeResources, divide_resources
from latentmas_ray.placement.suggestions import make_plan

__all__ = [
    "AS_ASKED_FOR",
    "HARDWARE",
    "PRESETS",
    "WHOLE_CLUSTER",
    "ActorMemory",
    "ActorPlanner",
    "ActorResources",
    "ClusterPart",
    "Hardware",
    "LinkSpeeds",
    "MemoryEstimate",
    "ModelDims",
    "NodeResources",
    "Plan",
    "PlanRequest",
    "PlannedActor",
    "PlannedTransfer",
    "ReplicaId",
    "RunLayout",
    "Slot",
    "Workload",
    "dims_of_config",
    "divide_nodes",
    "divide_resources",
    "hardware_named",
    "hardware_of_device",
    "known_dims",
    "make_plan",
    "nodes_alike",
]
