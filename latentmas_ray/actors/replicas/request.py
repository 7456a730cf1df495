"""What a run asks of the replica manager."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from latentmas_ray.actors.detached.actors import DetachedActors
from latentmas_ray.actors.execute_turn import Runner
from latentmas_ray.actors.text.setup import TextSetup
from latentmas_ray.authentication import RunKey
from latentmas_ray.config import PlacementName
from latentmas_ray.placement import Plan, PlanRequest, make_plan


@dataclass(frozen=True, kw_only=True)
class ReplicaRequest:
    """What a run needs: its agents, the replicas of each, where they go, and how they load their model."""

    agents: tuple[str, ...]
    replicas: Mapping[str, int]
    make_runner: Callable[..., Runner]  # with `tp` above 1 it is called with `ranks=…`
    placement: PlacementName = "auto"
    tp: int = 1  # actors per replica, over which its model is divided
    busy_agents: int = 1  # agents that can work at the same time; sets the threads of each on CPUs
    uses_gpus: bool = True
    num_threads: int | None = None  # overrides the plan
    start_seconds: float = 1800.0  # to schedule all actors and load their models
    key: RunKey | None = None  # of the run, for its actors
    # The agents whose texts are written question by question, in actors that only such agents share.
    texts: Mapping[str, TextSetup] = field(default_factory=dict)
    turn_seconds: float | None = None  # the limit for one question of such an agent
    detached: DetachedActors | None = None  # the run's actors outlive this driver for some time, if it is killed
    make_plan: Callable[[PlanRequest], Plan] = make_plan  # also chooses replicas, if they are not given
