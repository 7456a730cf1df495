"""Who goes where, computed before anything starts: agents, replicas and shards on nodes and GPUs. Pure Python.

`figures` knows what models weigh, `demand` what agents need for a batch, `shares` and `seats` share nodes out,
`strategies` makes a `plan` of it, and `advice` says what would fit where nothing does.
"""

from latentmas_ray.placement.advice import make_plan
from latentmas_ray.placement.demand import Demand, Memory, Workload
from latentmas_ray.placement.figures import PRESETS, ModelFigures, figures_of_config, known_figures
from latentmas_ray.placement.links import HandOver, LinkSpeeds
from latentmas_ray.placement.plan import Plan, PlanRequest, Shard, nodes_alike
from latentmas_ray.placement.seats import Seat, Team
from latentmas_ray.placement.shares import ActorResources, NodeResources, share_out

__all__ = [
    "PRESETS",
    "ActorResources",
    "Demand",
    "HandOver",
    "LinkSpeeds",
    "Memory",
    "ModelFigures",
    "NodeResources",
    "Plan",
    "PlanRequest",
    "Seat",
    "Shard",
    "Team",
    "Workload",
    "figures_of_config",
    "known_figures",
    "make_plan",
    "nodes_alike",
    "share_out",
]
