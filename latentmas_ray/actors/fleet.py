"""The actors of a run: planned, placed, started, loaded, and ended. Ray's errors end here."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, OutOfMemoryError, RayError, RayTaskError
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from latentmas_ray.actors.agent_actor import GROUPS, AgentActor, Loaded
from latentmas_ray.actors.bundles import Bundles
from latentmas_ray.actors.cluster import Cluster
from latentmas_ray.actors.turn import Runner
from latentmas_ray.config import PlacementName
from latentmas_ray.errors import ActorError, ClusterError, InputError
from latentmas_ray.placement import Plan, PlanRequest, Team, make_plan
from latentmas_ray.transport import Situation, Transport

START_SECONDS = 1800.0  # to schedule all actors and load their models
_LOOK_SECONDS = 5.0  # how often a start that lasts looks after the nodes
NO_MEMORY = (
    "its machine ran out of memory; use a smaller batch_size, memory_in_flight or max_new_tokens, or more machines"
)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Replica:
    """One actor of an agent, and the node it lives on."""

    actor: Any
    node_id: str


class Fleet:
    """Actors where a plan puts them. A shard that holds a part of a model is not made yet: `tp` is 1."""

    def __init__(
        self,
        agents: Sequence[str],
        replicas: Mapping[str, int],
        make_runner: Callable[[], Runner],
        *,
        placement: PlacementName = "auto",
        busy_agents: int = 1,
        uses_gpus: bool = True,
        num_threads: int | None = None,
    ) -> None:
        """`busy_agents` is how many agents can work at the same time; on CPUs it decides the threads of each, unless
        `num_threads` does. Without `uses_gpus` no GPU is asked for."""
        self._agents = tuple(agents)
        self._counts = dict(replicas)
        self._make_runner = make_runner
        self._placement = placement
        self._busy_agents = busy_agents
        self._uses_gpus = uses_gpus
        self._num_threads = num_threads
        self._plan: Plan | None = None
        self._bundles: Bundles | None = None
        self._actors: dict[Team, Any] = {}
        self._replicas: dict[Team, Replica] = {}
        self.loaded: list[Loaded] = []

    def start(self, cluster: Cluster) -> Cluster:
        """Place the actors and load their models, all at the same time. Returns the cluster as it was found in the end:
        where a node dies meanwhile, the others are shared out again.

        Raises ConfigError, ClusterError if the actors find no place, ModelError, ActorError.
        """
        deadline = time.monotonic() + START_SECONDS
        while True:
            self._plan = make_plan(self._request(cluster))
            loaded = self._load(cluster, deadline) if self._make_actors(self._plan, cluster, deadline) else None
            if loaded is not None:
                break
            # A share of nodes of which one is no more may be too large for the others. Ray tells of a node's death a
            # minute late, so a run that is resumed after one comes here.
            self.end()
            cluster = Cluster.look(owned=cluster.owned)
        spec = loaded[0].spec
        for one in loaded[1:]:
            spec.check_same(one.spec)
        self.loaded = loaded
        self._replicas = {
            team: Replica(actor, one.node_id) for (team, actor), one in zip(self._actors.items(), loaded, strict=True)
        }
        return cluster

    @property
    def plan(self) -> Plan:
        """The plan of the actors that run."""
        assert self._plan is not None, "start() comes first"
        return self._plan

    def replicas_of(self) -> dict[str, list[Replica]]:
        """The actors of each agent, by the number of the replica. Colocated agents have the same ones."""
        return {
            agent: [self._replicas[self.plan.team_of(agent, number)] for number in range(count)]
            for agent, count in self._counts.items()
        }

    def situation(self) -> Situation:
        """Where the actors have come up, and what all of them have."""
        gpus = {one.gpu for one in self.loaded}
        is_shared = len(gpus) < len(self.loaded)
        return Situation(
            same_process=self.plan.is_colocated,
            device="cpu" if None in gpus else "cuda",
            nodes="one" if len({one.node_id for one in self.loaded}) == 1 else "several",
            gpus="one" if len(gpus) == 1 and is_shared else "shared" if is_shared else "own",
            available=frozenset.intersection(*(one.available for one in self.loaded)),
        )

    def use(self, transport: Transport) -> None:
        """Have all memory travel this way from now on. Raises ActorError, ClusterError."""
        told = [actor.use.options(concurrency_group="turns").remote(transport) for actor in self._actors.values()]
        try:
            ray.get(told, timeout=START_SECONDS)
        except RayTaskError as error:
            raise ActorError(f"transport {transport.name} cannot be used: {reason(error.cause or error)}") from error
        except GetTimeoutError as error:
            raise ClusterError(f"transport {transport.name} was not ready within {START_SECONDS:.0f} s") from error
        except RayError as error:
            raise ActorError(f"an actor died while transport {transport.name} began: {reason(error)}") from error

    def end(self) -> None:
        """End the actors and give their places back. Safe to call twice."""
        actors, self._actors, self._replicas = self._actors, {}, {}
        for actor in actors.values():
            try:
                ray.kill(actor)
            except (RayError, ValueError) as error:
                _log.debug("actor was not ended: %s", error)
        bundles, self._bundles = self._bundles, None
        if bundles is not None:
            bundles.remove()

    def describe(self) -> str:
        """One line for the log: actors, devices, threads, and why they stand where they do."""
        share, plan = self.plan.share, self.plan
        num_nodes = len({one.node_id for one in self.loaded})
        place = f"{_count(len(self.loaded), 'actor')} on {_count(num_nodes, 'node')}"
        kinds = ", ".join(sorted({one.device for one in self.loaded}))
        each = (
            f"{share.num_gpus:g} GPU each" if share.num_gpus else f"{_count(self._threads(plan), 'torch thread')} each"
        )
        why = "" if self._placement != "auto" or plan.strategy == "pack" else f" ({plan.why})"
        if self._bundles is not None and not self._bundles.is_pinned:
            why = " (on other nodes than planned, which were taken)"
        return f"{place}, {kinds}, {each}, placement {plan.strategy}{why}"

    def _request(self, cluster: Cluster) -> PlanRequest:
        nodes = cluster.nodes if self._uses_gpus else tuple(replace(node, num_gpus=0.0) for node in cluster.nodes)
        return PlanRequest(
            agents=self._agents,
            replicas=self._counts,
            nodes=nodes,
            placement=self._placement,
            busy_agents=self._busy_agents,
        )

    def _threads(self, plan: Plan) -> int:
        return self._num_threads or plan.share.num_threads

    def _make_actors(self, plan: Plan, cluster: Cluster, deadline: float) -> bool:
        """Whether they have places; False if a node died before they had."""
        self._bundles = Bundles(plan)
        while not self._bundles.wait(_LOOK_SECONDS):
            if cluster.has_lost_nodes():
                return False
            if time.monotonic() > deadline:
                raise ClusterError(_no_place(self._agents))
        # In order, Ray would let a turn that waits for its segment hold up those behind it, and an actor would wait
        # half a minute for a turn that was cancelled meanwhile and then lose its whole queue.
        remote = ray.remote(
            num_gpus=plan.share.num_gpus,
            num_cpus=plan.share.num_cpus,
            allow_out_of_order_execution=True,
            concurrency_groups=GROUPS,
        )(AgentActor)
        for index, shard in enumerate(plan.shards()):
            strategy = PlacementGroupSchedulingStrategy(self._bundles.group, placement_group_bundle_index=index)
            self._actors[shard.team] = remote.options(scheduling_strategy=strategy).remote(
                self._make_runner, self._threads(plan)
            )
        return True

    def _load(self, cluster: Cluster, deadline: float) -> list[Loaded] | None:
        """What every actor has to say of its model; None if a node died before all were ready."""
        references = [actor.load.options(concurrency_group="turns").remote() for actor in self._actors.values()]
        try:
            while True:
                try:
                    loaded: list[Loaded] = ray.get(references, timeout=_LOOK_SECONDS)
                    return loaded
                except GetTimeoutError:
                    if cluster.has_lost_nodes():
                        return None
                    if time.monotonic() > deadline:
                        raise
        except RayTaskError as error:
            if isinstance(error.cause, InputError):
                raise error.cause from error
            raise ActorError(f"an actor could not load its model: {reason(error.cause or error)}") from error
        except GetTimeoutError as error:
            ready = set(ray.wait(references, num_returns=len(references), timeout=0)[0])
            late = [
                agent
                for team, reference in zip(self._actors, references, strict=True)
                for agent in team.agents
                if reference not in ready
            ]
            raise ClusterError(_no_place(late)) from error
        except OutOfMemoryError as error:
            raise ActorError(f"an actor was ended while it loaded its model: {NO_MEMORY}") from error
        except RayError as error:
            raise ActorError(f"an actor died while it loaded its model: {reason(error)}") from error


def _no_place(agents: Sequence[str]) -> str:
    return (
        f"after {START_SECONDS:.0f} s no place was found for the actors of {', '.join(dict.fromkeys(agents))}: "
        "free resources on the cluster or use fewer replicas"
    )


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def reason(error: BaseException) -> str:
    """The last line of a remote error: Ray puts the whole remote traceback into the text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
