"""The actors of a run: planned, placed, started, loaded, replaced, and ended."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pickle import PicklingError

import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from latentmas_ray.actors.agent_actor import GROUPS, AgentActor, Loaded
from latentmas_ray.actors.cluster import Cluster
from latentmas_ray.actors.errors import actor_errors, cluster_errors, reason
from latentmas_ray.actors.execute_turn import Runner
from latentmas_ray.actors.placement_group import PlacementGroupHandle, gpus_per_actor
from latentmas_ray.actors.rank_actor import RANK_GROUPS, RankActor
from latentmas_ray.actors.replicas.replica import Replica, ReplicaState
from latentmas_ray.actors.replicas.sharded import ShardedReplica
from latentmas_ray.actors.replicas.single import SingleReplica
from latentmas_ray.config import PlacementName
from latentmas_ray.errors import ActorError, ClusterError, ModelError
from latentmas_ray.memory import KVCacheSpec, TPRank
from latentmas_ray.placement import Plan, PlanRequest, ReplicaId, make_plan
from latentmas_ray.transport import DeviceLayout, Transport

START_SECONDS = 1800.0  # to schedule all actors and load their models
LOOK_SECONDS = 5.0  # how often a start that lasts looks after the nodes
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ReplicaRequest:
    """What a run wants: agents and how many replicas of each, where, and how they are loaded."""

    agents: tuple[str, ...]
    replicas: Mapping[str, int]
    make_runner: Callable[..., Runner]  # with `tp` above 1 it is given the ranks of its group as `ranks`
    placement: PlacementName = "auto"
    tp: int = 1  # actors that the model of one replica is divided over
    busy_agents: int = 1  # how many can work at the same time; on CPUs it decides the threads of each
    uses_gpus: bool = True
    num_threads: int | None = None  # instead of what the plan says


@dataclass(frozen=True)
class _Starting:
    loaded: list[ray.ObjectRef]
    deadline: float


class ReplicaManager:
    """Replicas where a plan puts them."""

    def __init__(self, request: ReplicaRequest) -> None:
        self._request = request
        self._plan: Plan | None = None
        self._bundles: PlacementGroupHandle | None = None
        self._make_runner: ray.ObjectRef | None = None
        self._transport: Transport | None = None
        self._replicas: dict[ReplicaId, Replica] = {}
        self._by_agent: dict[str, list[Replica]] | None = None  # made when it is asked for, as every turn does
        self._starting: dict[Replica, _Starting] = {}
        self.loaded: list[Loaded] = []

    def start(self, cluster: Cluster) -> Cluster:
        """Place the actors and load their models, all at the same time. Returns the cluster as it was found in the end:
        where a node dies meanwhile, the others are shared out again.

        Raises ConfigError, ClusterError if the actors find no place, ModelError, ActorError.
        """
        deadline = time.monotonic() + START_SECONDS
        while True:
            self._plan = make_plan(self._plan_request(cluster))
            loaded = self._load(cluster, deadline) if self._make_replicas(self._plan, cluster, deadline) else None
            if loaded is not None:
                break
            # A share of nodes of which one is no more may be too large for the others. Ray tells of a node's death a
            # minute late, so a run that is resumed after one comes here.
            self.end()
            cluster = Cluster.look(owned=cluster.owned)
        self.loaded = loaded
        rest = iter(loaded)
        for replica in self._replicas.values():
            self.spec.check_same(replica.accept([next(rest) for _ in replica.actors]))
        return cluster

    @property
    def spec(self) -> KVCacheSpec:
        """Of the memory of the whole model."""
        return self.loaded[0].spec.of_shard(TPRank())

    @property
    def plan(self) -> Plan:
        """The plan of the actors that run."""
        assert self._plan is not None, "start() comes first"
        return self._plan

    @property
    def replicas(self) -> tuple[Replica, ...]:
        """All replicas that there are by now, each once."""
        return tuple(self._replicas.values())

    def replicas_of(self) -> dict[str, list[Replica]]:
        """The replicas of each agent that there are by now. Colocated agents have the same ones."""
        if self._by_agent is None:
            replica_ids = {
                agent: [self.plan.replica_id_of(agent, number) for number in range(count)]
                for agent, count in self._request.replicas.items()
            }
            self._by_agent = {
                agent: [self._replicas[replica_id] for replica_id in members if replica_id in self._replicas]
                for agent, members in replica_ids.items()
            }
        return self._by_agent

    def situation(self) -> DeviceLayout:
        """Where the actors have come up, and what all of them have."""
        gpus = {one.gpu for one in self.loaded}
        is_shared = len(gpus) < len(self.loaded)
        return DeviceLayout(
            same_process=self.plan.is_colocated,
            device="cpu" if None in gpus else "cuda",
            nodes="one" if len({one.node_id for one in self.loaded}) == 1 else "several",
            gpus="one" if len(gpus) == 1 and is_shared else "shared" if is_shared else "own",
            available=frozenset.intersection(*(one.available for one in self.loaded)),
        )

    def use(self, transport: Transport) -> None:
        """Have all memory travel this way from now on. Raises ActorError, ClusterError."""
        self._transport = transport
        told = [reference for replica in self._replicas.values() for reference in replica.use(transport)]
        name = transport.name
        try:
            with actor_errors(f"transport {name} cannot be used", f"an actor died while transport {name} began"):
                ray.get(told, timeout=START_SECONDS)
        except TimeoutError as error:
            raise ClusterError(f"transport {name} was not ready within {START_SECONDS:.0f} s") from error

    def replace(self, lost: Replica) -> None:
        """Have a replica that is lost made again where it was. Turns may be submitted to the new one at once;
        `poll_starting` sees to its start."""
        replica_id = next((replica_id for replica_id, replica in self._replicas.items() if replica is lost), None)
        if replica_id is None:  # it has been done without
            return
        shards = [(index, shard) for index, shard in enumerate(self.plan.shards()) if shard.replica_id == replica_id]
        replica = self._make_replica(replica_id, [index for index, _ in shards], lost.nodes, spec=lost.spec)
        replica.state = ReplicaState.REPLACING
        self._replicas[replica_id] = replica
        self._by_agent = None
        self._starting.pop(lost, None)
        self._starting[replica] = _Starting(replica.start(self._transport), time.monotonic() + START_SECONDS)

    def poll_starting(self) -> tuple[list[Replica], list[tuple[Replica, str]]]:
        """Take note of the replicas that are REPLACING lost ones. Returns those that are ready now, and those that did
        not come up, with the reason. One for which no place is found is dropped.

        Raises InputError kinds if a model cannot be loaded any more, ClusterError if an agent has no place at all.
        """
        ready: list[Replica] = []
        died: list[tuple[Replica, str]] = []
        for replica, starting in list(self._starting.items()):
            try:
                replica.accept(get_loaded(starting.loaded, timeout_seconds=0))
                ready.append(replica)
            except TimeoutError:
                if time.monotonic() > starting.deadline and not self.drop(replica):
                    raise ClusterError(_no_place(self._agents_of([replica]))) from None
                continue
            except ActorError as error:
                died.append((replica, str(error)))
            del self._starting[replica]
        return ready, died

    def find_orphans(self, alive: Set[str]) -> list[Replica]:
        """The replicas that wait to be started on nodes that are not `alive` any more."""
        return [replica for replica in self._starting if not alive >= set(replica.nodes)]

    def drop(self, replica: Replica) -> bool:
        """Do without a replica for the rest of the run; False, and nothing is done, if an agent would have none."""
        if any(members == [replica] for members in self.replicas_of().values()):
            return False
        self._starting.pop(replica, None)
        self._replicas = {replica_id: other for replica_id, other in self._replicas.items() if other is not replica}
        self._by_agent = None
        replica.mark_dead("it could not be started again", is_at_fault=False)  # turns may wait for it
        return True

    def end(self) -> None:
        """End the actors and give their places back. Safe to call twice."""
        replicas, self._replicas, self._starting, self._by_agent = self._replicas, {}, {}, None
        for replica in replicas.values():
            replica.end()
        bundles, self._bundles, self._make_runner = self._bundles, None, None
        if bundles is not None:
            bundles.remove()

    def describe(self) -> str:
        """One line for the log: actors, devices, threads, and why they stand where they do."""
        plan, request = self.plan, self._request
        num_nodes = len({one.node_id for one in self.loaded})
        place = f"{_count(len(self.loaded), 'actor')} on {_count(num_nodes, 'node')}"
        kinds = ", ".join(sorted({one.device for one in self.loaded}))
        each = (
            f"{gpus_per_actor(plan):g} GPU each"
            if gpus_per_actor(plan)
            else f"{_count(self._threads(plan), 'torch thread')} each"
        )
        ranks = f", {request.tp} for each replica" if request.tp > 1 else ""
        why = "" if request.placement != "auto" or plan.strategy == "pack" else f" ({plan.why})"
        if self._bundles is not None and not self._bundles.is_pinned:
            why = " (on other nodes than planned, which were taken)"
        return f"{place}{ranks}, {kinds}, {each}, placement {plan.strategy}{why}"

    def _plan_request(self, cluster: Cluster) -> PlanRequest:
        request = self._request
        nodes = cluster.nodes if request.uses_gpus else tuple(replace(node, num_gpus=0.0) for node in cluster.nodes)
        return PlanRequest(
            agents=request.agents,
            replicas=request.replicas,
            nodes=nodes,
            placement=request.placement,
            tp=request.tp,
            busy_agents=request.busy_agents,
        )

    def _threads(self, plan: Plan) -> int:
        return self._request.num_threads or plan.share.num_threads

    def _make_replicas(self, plan: Plan, cluster: Cluster, deadline: float) -> bool:
        """Whether they have places; False if a node died before they had."""
        self._bundles = PlacementGroupHandle(plan)
        while not self._bundles.wait(LOOK_SECONDS):
            if cluster.has_lost_nodes():
                return False
            if time.monotonic() > deadline:
                raise ClusterError(_no_place(self._request.agents))
        self._by_agent = None
        by_team: dict[ReplicaId, list[tuple[int, str]]] = {}
        for index, shard in enumerate(plan.shards()):
            by_team.setdefault(shard.replica_id, []).append((index, plan.request.nodes[shard.slot.node].name))
        for replica_id, places in by_team.items():
            self._replicas[replica_id] = self._make_replica(
                replica_id, [index for index, _ in places], [node for _, node in places]
            )
        return True

    def _make_replica(
        self, replica_id: ReplicaId, bundles: Sequence[int], nodes: Sequence[str], *, spec: KVCacheSpec | None = None
    ) -> Replica:
        """Actors in these bundles of the placement group."""
        is_group, plan = self._request.tp > 1, self.plan
        remote = ray.remote(
            num_gpus=gpus_per_actor(plan),
            num_cpus=plan.share.num_cpus,
            # In order, Ray would let a turn that waits for its segment hold up those behind it, and an actor would wait
            # half a minute for a turn that was cancelled meanwhile and then lose its whole queue.
            allow_out_of_order_execution=True,
            concurrency_groups=RANK_GROUPS if is_group else GROUPS,
        )(RankActor if is_group else AgentActor)
        assert self._bundles is not None, "start() comes first"
        actors = []
        for rank, index in enumerate(bundles):
            strategy = PlacementGroupSchedulingStrategy(self._bundles.group, placement_group_bundle_index=index)
            more = (TPRank(rank, len(bundles)),) if is_group else ()
            arguments = (self._sent_runner(), self._threads(plan), *more)
            actors.append(remote.options(scheduling_strategy=strategy).remote(*arguments))
        make = ShardedReplica if is_group else SingleReplica
        return make(actors, nodes, stays=plan.is_colocated, spec=spec)

    def _sent_runner(self) -> ray.ObjectRef:
        """What every actor loads its model with, in the object store once: it may hold the weights themselves.

        Raises InputError kinds, ClusterError if the object store has no room for it.
        """
        if self._make_runner is None:
            try:
                with cluster_errors("the object store has no room for the model"):
                    self._make_runner = ray.put(self._request.make_runner)
            except (TypeError, PicklingError) as error:
                raise ModelError("model", "an object", f"it must be possible to send it: {reason(error)}") from error
        return self._make_runner

    def _load(self, cluster: Cluster, deadline: float) -> list[Loaded] | None:
        """What every actor has to say of its model; None if a node died before all were ready."""
        references = {replica: replica.start() for replica in self._replicas.values()}
        waiting = [reference for some in references.values() for reference in some]
        while True:
            try:
                return get_loaded(waiting, timeout_seconds=LOOK_SECONDS)
            except TimeoutError:
                if cluster.has_lost_nodes():
                    return None
                if time.monotonic() > deadline:
                    ready = set(ray.wait(waiting, num_returns=len(waiting), timeout=0)[0])
                    late = [replica for replica, some in references.items() if not ready.issuperset(some)]
                    raise ClusterError(_no_place(self._agents_of(late))) from None

    def _agents_of(self, replicas: Sequence[Replica]) -> list[str]:
        return [
            agent
            for replica_id, replica in self._replicas.items()
            if replica in replicas
            for agent in replica_id.agents
        ]


def get_loaded(references: Sequence[ray.ObjectRef], *, timeout_seconds: float | None = None) -> list[Loaded]:
    """What actors have loaded. Raises InputError kinds, ActorError, and TimeoutError."""
    with actor_errors("an actor could not load its model", "an actor died while it loaded its model"):
        loaded: list[Loaded] = ray.get(list(references), timeout=timeout_seconds)
    return loaded


def _no_place(agents: Sequence[str]) -> str:
    return (
        f"after {START_SECONDS:.0f} s no place was found for the actors of {', '.join(dict.fromkeys(agents))}: "
        "free resources on the cluster or use fewer replicas"
    )


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
