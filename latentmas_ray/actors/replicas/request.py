"""What a run asks for: its agents, the replicas of each, where they go, and how they load their model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pickle import PicklingError
from typing import Any, TypeVar, get_args

import ray

from latentmas_ray.actors.detached.actors import DetachedActors
from latentmas_ray.actors.errors import cluster_errors, reason
from latentmas_ray.actors.execute_turn import Runner
from latentmas_ray.actors.text.setup import TextSetup
from latentmas_ray.authentication import RunKey
from latentmas_ray.config import PlacementName
from latentmas_ray.env import read_environment
from latentmas_ray.errors import ModelError
from latentmas_ray.placement import AS_ASKED_FOR, ActorPlanner, NodeResources, PlanRequest, ReplicaId
from latentmas_ray.scheduler.protocol import RuntimeInfo, StandIns
from latentmas_ray.topology.agent import Thinks

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ReplicaRequest:
    """What a run needs: its agents, the replicas of each, where they go, and how they load their model."""

    agents: tuple[str, ...]
    replicas: Mapping[str, int]
    make_runner: Callable[..., Runner]  # with `tp` above 1 it is called with `ranks=…`
    # Of the agents with another model than `make_runner` loads: what loads it, and its name.
    own_runners: Mapping[str, Callable[..., Runner]] = field(default_factory=dict)
    other_models: Mapping[str, str] = field(default_factory=dict)
    # By agent: with how many of its replicas the run may start, if not with all.
    least: Mapping[str, int] = field(default_factory=dict)
    placement: PlacementName = "auto"
    tp: int = 1  # actors per replica, over which its model is divided
    busy_agents: int = 1  # agents that can work at the same time; sets the threads of each on CPUs
    uses_gpus: bool = True
    num_threads: int | None = field(default_factory=lambda: read_environment().torch_threads)  # overrides the plan
    start_seconds: float = 1800.0  # to schedule all actors and load their models
    key: RunKey | None = None  # of the run, for its actors
    # The agents whose texts are written question by question, in actors that only such agents share.
    texts: Mapping[str, TextSetup] = field(default_factory=dict)
    turn_seconds: float | None = None  # the limit for one question of such an agent
    detached: DetachedActors | None = None  # the run's actors outlive this driver for some time, if it is killed
    planner: ActorPlanner = AS_ASKED_FOR  # may choose the replicas, too
    # Agents without actors, by name and how they think: the agent whose actors execute their turns.
    stand_ins: StandIns = field(default_factory=dict)

    def actors_of(self, agent: str, thinks: str) -> str:
        """Return the agent whose actors execute turns of `agent`."""
        return self.stand_ins.get((agent, thinks), agent)

    def agents_for(self, agents: Sequence[str]) -> tuple[str, ...]:
        """Return the agents whose actors execute turns of these."""
        if not self.stand_ins:
            return tuple(agents)
        found = [
            one for name in agents for one in (name, *(self.stand_ins.get((name, how)) for how in get_args(Thinks)))
        ]
        return tuple(dict.fromkeys(one for one in found if one in self.agents))

    def with_stand_ins(self, by_agent: Mapping[str, T]) -> Mapping[str, T]:
        """Return these values also for the agents without actors."""
        if not self.stand_ins:
            return by_agent  # the same object: callers keep what they have found for it
        theirs = {agent: by_agent[actor] for (agent, _), actor in self.stand_ins.items() if actor in by_agent}
        return {**theirs, **by_agent}

    def complete(self, info: RuntimeInfo) -> RuntimeInfo:
        """Return what is known of a runtime with these actors, also for the agents without actors."""
        specs, writes_at_once = self.with_stand_ins(info.kv_specs), self.with_stand_ins(info.writes_at_once)
        return replace(info, kv_specs=specs, writes_at_once=writes_at_once)

    def plan_request(self, nodes: tuple[NodeResources, ...], replicas: Mapping[str, int]) -> PlanRequest:
        """Return what to place on these nodes, with these numbers of replicas."""
        return PlanRequest(
            agents=self.agents,
            replicas=replicas,
            nodes=nodes if self.uses_gpus else tuple(replace(node, num_gpus=0.0) for node in nodes),
            placement=self.placement,
            tp=self.tp,
            busy_agents=self.busy_agents,
            apart=frozenset(agent for agent, text in self.texts.items() if text.engine == "vllm"),
            other_models=self.other_models,
        )

    def runner_of(self, replica_id: ReplicaId) -> Callable[..., Any]:
        """Return what loads the model of a replica in its actors."""
        text = self.text_setup(replica_id)
        return self.own_runners.get(replica_id.agents[0], self.make_runner) if text is None else text.make_runner

    def text_setup(self, replica_id: ReplicaId) -> TextSetup | None:
        """Return how this replica writes texts; None if one of its agents is not such an agent, or if its model is
        divided and not vLLM's: our own engine then writes static batches."""
        setups = [self.texts.get(agent) for agent in replica_id.agents]
        if None in setups or (self.tp > 1 and any(one and one.engine != "vllm" for one in setups)):
            return None
        return setups[0]


class Loaders:
    """The functions that load models, each stored once in the object store."""

    def __init__(self) -> None:
        self._references: dict[int, ray.ObjectRef] = {}  # by the id of the function

    def store(self, make_runner: Callable[..., Any]) -> ray.ObjectRef:
        """Return a reference to a function that loads the model; stored once, as it may contain the weights.

        Raises InputError kinds, ClusterError if the object store has no room for it.
        """
        if id(make_runner) not in self._references:
            try:
                with cluster_errors("the object store has no room for the model"):
                    self._references[id(make_runner)] = ray.put(make_runner)
            except (TypeError, PicklingError) as error:
                raise ModelError("model", "an object", f"it must be possible to send it: {reason(error)}") from error
        return self._references[id(make_runner)]
