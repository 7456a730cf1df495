"""Plans, places, starts, loads, replaces and shuts down the actors of a run."""

import logging
import math
import time
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, replace
from pickle import PicklingError
from typing import Any

import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from latentmas_ray.actors.agent_actor import Loaded
from latentmas_ray.actors.cluster import Cluster
from latentmas_ray.actors.errors import actor_errors, cluster_errors, reason
from latentmas_ray.actors.replicas.measure_ways import measure_ways
from latentmas_ray.actors.replicas.placement_group import PlacementGroupHandle
from latentmas_ray.actors.replicas.replica import Replica, ReplicaState
from latentmas_ray.actors.replicas.request import ReplicaRequest
from latentmas_ray.actors.replicas.waiting import WaitLog
from latentmas_ray.actors.text.setup import TextSetup, kind_of_replica
from latentmas_ray.actors.text.text_replica import TextReplica
from latentmas_ray.errors import ActorError, ClusterError, ModelError
from latentmas_ray.memory import KVCacheSpec, TPRank
from latentmas_ray.placement import Plan, PlanRequest, ReplicaId
from latentmas_ray.transport import DeviceLayout, Transport
from latentmas_ray.transport.choose import LinkTimes
from latentmas_ray.units import format_seconds

POLL_SECONDS = 5.0  # how often a start checks whether a node has died
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Starting:
    loaded: list[ray.ObjectRef]
    deadline: float
    log: WaitLog


class ReplicaManager:
    """Creates and replaces replicas where a plan puts them."""

    def __init__(self, request: ReplicaRequest) -> None:
        self._request = request
        self._plan: Plan | None = None
        self._placement_group: PlacementGroupHandle | None = None
        self._loaders: dict[int, ray.ObjectRef] = {}  # by the id of the function
        self._transport: Transport | None = None
        self._replicas: dict[ReplicaId, Replica] = {}
        self._by_agent: dict[str, list[Replica]] | None = None  # a cache, as every turn asks for it
        self._starting: dict[Replica, _Starting] = {}
        self.loaded: list[Loaded] = []
        self._link_times: LinkTimes | None = None

    def start(self, cluster: Cluster) -> Cluster:
        """Place the actors and load their models, all at the same time.

        If a node dies meanwhile, the actors are planned again for the other nodes. Returns the cluster that the last
        plan used. Raises ConfigError, ClusterError if the actors cannot be placed, ModelError, ActorError.
        """
        deadline = time.monotonic() + self._request.start_seconds
        while True:
            self._plan = self._request.make_plan(self._plan_request(cluster))
            loaded = self._rejoin(self._plan)
            if loaded is None and self._make_replicas(self._plan, cluster, deadline):
                loaded = self._load(cluster, deadline)
            if loaded is not None:
                break
            # The plan may ask too much of the nodes that are left. Ray reports the death of a node up to a minute late,
            # so a run that is resumed right after it comes here.
            self.shut_down()
            cluster = cluster.inspect_again()
        self.loaded = loaded
        remaining = iter(loaded)
        for replica in self._replicas.values():
            self.spec.check_same(replica.accept([next(remaining) for _ in replica.actors]))
        return cluster

    @property
    def spec(self) -> KVCacheSpec:
        """The spec of the whole model's memory."""
        return self.loaded[0].spec.of_shard(TPRank())

    @property
    def plan(self) -> Plan:
        """The plan of the running actors."""
        assert self._plan is not None, "start() comes first"
        return self._plan

    @property
    def replicas(self) -> tuple[Replica, ...]:
        """All current replicas, each once."""
        return tuple(self._replicas.values())

    def replicas_of(self) -> dict[str, list[Replica]]:
        """Return the current replicas of each agent. Colocated agents share theirs. The same object, until a replica is
        another."""
        if self._by_agent is None:
            replica_ids = {
                agent: [self.plan.replica_id_of(agent, number) for number in range(count)]
                for agent, count in self.plan.request.replicas.items()
            }
            self._by_agent = {
                agent: [self._replicas[replica_id] for replica_id in members if replica_id in self._replicas]
                for agent, members in replica_ids.items()
            }
        return self._by_agent

    def writes_at_once(self) -> dict[str, int]:
        """Return how many questions all replicas of an agent write at the same time, for agents that write so."""
        return {
            agent: sum(self._request.texts[agent].max_running for _ in replicas)
            for agent, replicas in self.replicas_of().items()
            if replicas and isinstance(replicas[0], TextReplica)
        }

    @property
    def engines(self) -> dict[str, str]:
        """The engine of each agent that writes text with another engine than transformers."""
        return {agent: text.engine for agent, text in self._request.texts.items() if text.engine != "transformers"}

    def device_layout(self) -> DeviceLayout:
        """Return the devices that the actors run on, and what all of them support."""
        gpus = {one.gpu for one in self.loaded}
        is_shared = len(gpus) < len(self.loaded)
        return DeviceLayout(
            same_process=self.plan.is_colocated,
            device="cpu" if None in gpus else "cuda",
            nodes="one" if len({one.node_id for one in self.loaded}) == 1 else "several",
            gpus="one" if len(gpus) == 1 and is_shared else "shared" if is_shared else "own",
            available=frozenset.intersection(*(one.available for one in self.loaded)),
            measure=self._measure_ways,
        )

    def _measure_ways(self) -> LinkTimes:
        """Measure once in a run: after a loss the choice stays."""
        self._link_times = self._link_times or measure_ways(self.replicas)
        return self._link_times

    def use_transport(self, transport: Transport) -> None:
        """Switch all replicas to this transport. Raises ActorError, ClusterError."""
        self._transport = transport
        references = [
            reference for replica in self._replicas.values() for reference in replica.use_transport(transport)
        ]
        name = transport.name
        try:
            with actor_errors(f"transport {name} cannot be used", f"an actor died while transport {name} was opened"):
                ray.get(references, timeout=self._request.start_seconds)
        except TimeoutError as error:
            limit = format_seconds(self._request.start_seconds)
            raise ClusterError(f"transport {name} was not ready within {limit} (start_timeout)") from error

    def replace(self, lost: Replica) -> None:
        """Start a new replica in the place of a lost one. Turns may be submitted to it at once;
        `poll_starting` finishes its start."""
        replica_id = next((replica_id for replica_id, replica in self._replicas.items() if replica is lost), None)
        if replica_id is None:  # it was dropped
            return
        shards = [(index, shard) for index, shard in enumerate(self.plan.shards()) if shard.replica_id == replica_id]
        replica = self._make_replica(replica_id, [index for index, _ in shards], lost.nodes, spec=lost.spec)
        replica.state = ReplicaState.REPLACING
        self._replicas[replica_id] = replica
        self._by_agent = None
        self._starting.pop(lost, None)
        limit = self._request.start_seconds
        log = WaitLog(lambda: f"a new actor of {', '.join(replica_id.agents)}", limit)
        self._starting[replica] = _Starting(replica.start(self._transport), time.monotonic() + limit, log)

    def poll_starting(self) -> tuple[list[Replica], list[tuple[Replica, str]]]:
        """Finish the start of replicas that replace lost ones; never waits.

        Returns the replicas that are ready now, and those that failed to start, with the reason. A replica that cannot
        be placed is dropped. Raises InputError kinds if the model cannot be loaded, ClusterError if an agent would have
        no replica left.
        """
        ready: list[Replica] = []
        died: list[tuple[Replica, str]] = []
        for replica, starting in list(self._starting.items()):
            try:
                replica.accept(get_loaded(starting.loaded, timeout_seconds=0))
                ready.append(replica)
            except TimeoutError:
                if time.monotonic() <= starting.deadline:
                    starting.log.update()
                elif not self.drop(replica):
                    raise ClusterError(self._no_place_message(self._agents_of([replica]))) from None
                continue
            except ActorError as error:
                died.append((replica, str(error)))
            del self._starting[replica]
        return ready, died

    def find_orphans(self, alive: Set[str]) -> list[Replica]:
        """Return the starting replicas whose nodes are no longer `alive`."""
        return [replica for replica in self._starting if not alive >= set(replica.nodes)]

    def drop(self, replica: Replica) -> bool:
        """Remove a replica for the rest of the run. Return False, and do nothing, if an agent would have none left."""
        if any(members == [replica] for members in self.replicas_of().values()):
            return False
        self._starting.pop(replica, None)
        self._replicas = {replica_id: other for replica_id, other in self._replicas.items() if other is not replica}
        self._by_agent = None
        replica.mark_dead("it could not be started again", is_at_fault=False)  # turns may be waiting for it
        return True

    def shut_down(self) -> None:
        """Kill the actors and remove the placement group. Safe to call twice."""
        replicas, self._replicas, self._starting, self._by_agent = self._replicas, {}, {}, None
        for replica in replicas.values():
            replica.shut_down()
        placement_group, self._placement_group, self._loaders = self._placement_group, None, {}
        if placement_group is not None:
            placement_group.remove()

    def describe(self) -> str:
        """Return one line for the log: actors, devices, threads, and the reason for the placement."""
        plan, request = self.plan, self._request
        num_nodes = len({one.node_id for one in self.loaded})
        place = f"{_count(len(self.loaded), 'actor')} on {_count(num_nodes, 'node')}"
        kinds = ", ".join(sorted({one.device for one in self.loaded}))
        parts = sorted({plan.gpus_of(slot) for slot in plan.actors_on})
        each = (
            f"{' to '.join(f'{part:g}' for part in dict.fromkeys((parts[0], parts[-1])))} GPU each"
            if plan.share.num_gpus
            else f"{_count(self._threads(plan), 'torch thread')} each"
        )
        ranks = f", {request.tp} for each replica" if request.tp > 1 else ""
        why = "" if request.placement != "auto" or plan.strategy == "pack" else f" ({plan.why})"
        if self._placement_group is not None and not self._placement_group.is_pinned:
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
            apart=frozenset(agent for agent, text in request.texts.items() if text.engine == "vllm"),
        )

    def _threads(self, plan: Plan) -> int:
        return self._request.num_threads or plan.share.num_threads

    def _make_replicas(self, plan: Plan, cluster: Cluster, deadline: float) -> bool:
        """Create all replicas; return False if a node died before their actors were placed."""
        run = self._request.detached.namespace if self._request.detached is not None else None
        self._placement_group = PlacementGroupHandle(plan, self._request.start_seconds, detached_run=run)
        while not self._placement_group.wait(_poll_seconds(deadline)):
            if cluster.has_lost_nodes():
                return False
            if time.monotonic() > deadline:
                raise ClusterError(self._no_place_message(self._request.agents))
        self._by_agent = None
        by_replica: dict[ReplicaId, list[tuple[int, str]]] = {}
        for index, shard in enumerate(plan.shards()):
            by_replica.setdefault(shard.replica_id, []).append((index, plan.request.nodes[shard.slot.node].name))
        for replica_id, places in by_replica.items():
            self._replicas[replica_id] = self._make_replica(
                replica_id, [index for index, _ in places], [node for _, node in places]
            )
        return True

    def _make_replica(
        self, replica_id: ReplicaId, shards: Sequence[int], nodes: Sequence[str], *, spec: KVCacheSpec | None = None
    ) -> Replica:
        """Create a replica whose actors are the plan's shards with the indices `shards`."""
        request, plan = self._request, self.plan
        text = self._text_setup(replica_id)
        make, actor, groups = kind_of_replica(text, is_sharded=request.tp > 1)
        slot = plan.slots[replica_id][0]
        remote = ray.remote(
            num_gpus=plan.gpus_of(slot),
            num_cpus=plan.share.num_cpus,
            # In order, a turn that waits for its segment would block the turns behind it, and after a cancelled turn an
            # actor would wait half a minute and then lose its whole queue.
            allow_out_of_order_execution=True,
            concurrency_groups=groups,
        )(actor)
        assert self._placement_group is not None, "start() comes first"
        make_runner = self._store_loader(request.make_runner if text is None else text.make_runner)
        named = {"key": request.key} | ({} if text is None else {"question_seconds": request.turn_seconds})
        named |= {} if request.detached is None else {"lease_seconds": request.detached.seconds}
        actors = []
        for rank, index in enumerate(shards):
            bundle = self._placement_group.bundle_of(index)
            strategy = PlacementGroupSchedulingStrategy(
                self._placement_group.group, placement_group_bundle_index=bundle
            )
            more = (TPRank(rank, len(shards)),) if request.tp > 1 else ()
            arguments = (make_runner, self._threads(plan), *more)
            options = {} if request.detached is None else request.detached.options(str(replica_id))
            actors.append(remote.options(scheduling_strategy=strategy, **options).remote(*arguments, **named))
        return make(actors, nodes, name=str(replica_id), colocated=plan.is_colocated, spec=spec)

    def _rejoin(self, plan: Plan) -> list[Loaded] | None:
        """Use the actors of a former driver of the run; return what they have loaded, or None if there are none."""
        ids, detached = [shard.replica_id for shard in plan.shards()], self._request.detached
        if detached is None or (found := detached.find(list(map(str, ids)))) is None:
            return None
        self._placement_group, self._by_agent = PlacementGroupHandle.of(found.placement_group, plan), None
        for replica_id in ids:
            make, _, _ = kind_of_replica(self._text_setup(replica_id), is_sharded=False)
            self._replicas[replica_id] = make(**found.of(str(replica_id)), colocated=plan.is_colocated)
        return list(found.loaded.values())

    def _text_setup(self, replica_id: ReplicaId) -> TextSetup | None:
        """Return how this replica writes texts; None if one of its agents is not such an agent, or if its model is
        divided and not vLLM's: our own engine then writes static batches."""
        setups = [self._request.texts.get(agent) for agent in replica_id.agents]
        if None in setups or (self._request.tp > 1 and any(one and one.engine != "vllm" for one in setups)):
            return None
        return setups[0]

    def _store_loader(self, make_runner: Callable[..., Any]) -> ray.ObjectRef:
        """Return a reference to a function that loads the model; stored once, as it may contain the weights.

        Raises InputError kinds, ClusterError if the object store has no room for it.
        """
        if id(make_runner) not in self._loaders:
            try:
                with cluster_errors("the object store has no room for the model"):
                    self._loaders[id(make_runner)] = ray.put(make_runner)
            except (TypeError, PicklingError) as error:
                raise ModelError("model", "an object", f"it must be possible to send it: {reason(error)}") from error
        return self._loaders[id(make_runner)]

    def _load(self, cluster: Cluster, deadline: float) -> list[Loaded] | None:
        """Load all models; return what each actor reports, or None if a node died before all were ready."""
        references = {replica: replica.start() for replica in self._replicas.values()}
        waiting = [reference for refs in references.values() for reference in refs]

        def late_agents() -> list[str]:
            ready = set(ray.wait(waiting, num_returns=len(waiting), timeout=0)[0])
            return self._agents_of([replica for replica, refs in references.items() if not ready.issuperset(refs)])

        log = WaitLog(lambda: f"the actors of {_list(late_agents())} to load their models", self._request.start_seconds)
        while True:
            try:
                return get_loaded(waiting, timeout_seconds=_poll_seconds(deadline))
            except TimeoutError:
                if cluster.has_lost_nodes():
                    return None
                if time.monotonic() > deadline:
                    limit = format_seconds(self._request.start_seconds)
                    late = _list(late_agents())
                    raise ClusterError(
                        f"the actors of {late} did not load their models within {limit} (start_timeout)"
                    ) from None
                log.update()

    def _no_place_message(self, agents: Sequence[str]) -> str:
        return (
            f"after {format_seconds(self._request.start_seconds)} (start_timeout) no place was found for the actors of "
            f"{_list(agents)}: free resources on the cluster or use fewer replicas"
        )

    def _agents_of(self, replicas: Sequence[Replica]) -> list[str]:
        return [
            agent
            for replica_id, replica in self._replicas.items()
            if replica in replicas
            for agent in replica_id.agents
        ]


def get_loaded(references: Sequence[ray.ObjectRef], *, timeout_seconds: float | None = None) -> list[Loaded]:
    """Return what the actors report once loaded. Raises InputError kinds, ActorError, and TimeoutError."""
    with actor_errors("an actor could not load its model", "an actor died while it loaded its model"):
        loaded: list[Loaded] = ray.get(list(references), timeout=timeout_seconds)
    return loaded


def _poll_seconds(deadline: float) -> float:
    """Return how long to wait before the next look at the nodes and the deadline; Ray drops fractions of a second."""
    return min(POLL_SECONDS, max(1.0, math.ceil(deadline - time.monotonic())))


def _list(agents: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(agents))


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
