"""Plans, places, starts, loads, replaces and shuts down the actors of a run."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import replace

import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from latentmas_ray.actors.agent_actor import Loaded
from latentmas_ray.actors.cluster import Cluster
from latentmas_ray.actors.detached.actors import keeping_places
from latentmas_ray.actors.elastic import first
from latentmas_ray.actors.errors import actor_errors, reason
from latentmas_ray.actors.replicas import waiting
from latentmas_ray.actors.replicas.describe import describe_actors, layout_of
from latentmas_ray.actors.replicas.measure_ways import measure_ways
from latentmas_ray.actors.replicas.placement_group import PlacementGroupHandle
from latentmas_ray.actors.replicas.replica import Replica, ReplicaState
from latentmas_ray.actors.replicas.request import Loaders, ReplicaRequest
from latentmas_ray.actors.replicas.waiting import StartingReplica, WaitLog, get_loaded, no_place, poll_seconds
from latentmas_ray.actors.text.setup import kind_of_replica
from latentmas_ray.actors.text.text_replica import TextReplica
from latentmas_ray.errors import ActorError, ClusterError, InputError
from latentmas_ray.memory import KVCacheSpec, TPRank
from latentmas_ray.placement import NodeResources, Plan, PlanRequest, ReplicaId, Slot
from latentmas_ray.placement.resources import ActorResources
from latentmas_ray.transport import DeviceLayout, Transport
from latentmas_ray.transport.choose import LinkTimes
from latentmas_ray.units import format_seconds

_log = logging.getLogger(__name__)


class ReplicaManager:
    """Creates and replaces replicas where a plan puts them."""

    def __init__(self, request: ReplicaRequest) -> None:
        self.request = request
        self.asked = dict(request.replicas)  # by agent
        self.avoided: frozenset[str] = frozenset()  # nodes that will be removed, or on which the model does not load
        self._plan: Plan | None = None
        self._placement_group: PlacementGroupHandle | None = None
        self._loaders = Loaders()
        self._transport: Transport | None = None
        self._replicas: dict[ReplicaId, Replica] = {}
        self._has_retiring = False
        self._seats: dict[ReplicaId, first.Seat] = {}
        self._free_seats: list[first.Seat] = []  # of replicas that were retired, in the first placement group
        self._by_agent: dict[str, list[Replica]] | None = None  # a cache, as every turn asks for it
        self._starting: dict[Replica, StartingReplica] = {}
        self.loaded: list[Loaded] = []
        self._first_nodes: frozenset[str] = frozenset()  # on which the model has loaded
        self._link_times: LinkTimes | None = None

    def start(self, cluster: Cluster) -> Cluster:
        """Place the actors and load their models, all at the same time.

        If a node dies meanwhile, the actors are planned again for the other nodes. Returns the cluster that the last
        plan used. Raises ConfigError, ClusterError if the actors cannot be placed, ModelError, ActorError.
        """
        deadline = time.monotonic() + self.request.start_seconds
        while True:
            request = self.plan_request(cluster.nodes)
            self._plan = first.first_plan(request, self.request.least, self.request.planner.make_plan)
            if not self.request.least:
                self.asked = dict(self._plan.request.replicas)
            loaded = self._rejoin(self._plan)
            if loaded is None:
                with keeping_places(self.request.detached):
                    is_made = self._make_replicas(self._plan, cluster, deadline)
                loaded = self._load(cluster, deadline) if is_made else None
            if loaded is not None:
                break
            # The plan may ask too much of the nodes that are left. Ray reports the death of a node up to a minute late,
            # so a run that is resumed right after it comes here.
            self.shut_down()
            cluster = cluster.inspect_again()
        self.loaded = [one for ranks in loaded.values() for one in ranks]
        self._first_nodes = frozenset(one.node_id for one in self.loaded)
        first.accept_loaded(self._replicas, loaded, self.request.other_models)
        if told := first.describe_first(self.asked, self.replicas_of()):
            _log.warning("%s", told)
        return cluster

    def specs(self) -> dict[str, KVCacheSpec]:
        """Return the spec of the memory of each agent's whole model."""
        members = self.replicas_of().items()
        return {agent: next(one.spec for one in replicas if one.spec is not None) for agent, replicas in members}

    @property
    def plan(self) -> Plan:
        """The plan of the running actors."""
        assert self._plan is not None, "start() comes first"
        return self._plan

    @property
    def replicas(self) -> tuple[Replica, ...]:
        """All current replicas, each once."""
        return tuple(self._replicas.values())

    @property
    def by_id(self) -> Mapping[ReplicaId, Replica]:
        """All current replicas."""
        return self._replicas

    def replicas_of(self) -> dict[str, list[Replica]]:
        """Return the current replicas of each agent, those that retire included; colocated agents share theirs. The
        same object, until a replica is another."""
        if self._by_agent is None:
            in_order = sorted(self._replicas, key=lambda replica_id: replica_id.replica)
            self._by_agent = {
                agent: [self._replicas[replica_id] for replica_id in in_order if agent in replica_id.agents]
                for agent in self.request.agents
            }
        return self._by_agent

    def writes_at_once(self) -> dict[str, int]:
        """Return how many questions all replicas of an agent write at the same time, for agents that write so."""
        return {
            agent: sum(self.request.texts[agent].max_running for one in replicas if one.takes_turns)
            for agent, replicas in self.replicas_of().items()
            if replicas and isinstance(replicas[0], TextReplica)
        }

    @property
    def num_threads(self) -> int:
        """The torch threads of each actor, on cores."""
        return self._threads(self.plan)

    @property
    def reaches_other_nodes(self) -> bool:
        """Whether replicas may be on nodes that have none so far."""
        links = self._transport.capabilities.links if self._transport else frozenset()
        return self.plan.is_colocated or "cross_node" in links

    @property
    def engines(self) -> dict[str, str]:
        """The engine of each agent that writes text with another engine than transformers."""
        return {agent: text.engine for agent, text in self.request.texts.items() if text.engine != "transformers"}

    def device_layout(self, *, may_move: bool = False) -> DeviceLayout:
        """Return the devices that the actors run on; with `may_move` those of other nodes, too, on which actors may be
        added."""
        measure = self._measure_ways if len({one.node_id for one in self.loaded}) > 1 else None
        return layout_of(self.loaded, is_colocated=self.plan.is_colocated, may_move=may_move, measure=measure)

    def _measure_ways(self) -> LinkTimes:
        """Measure once in a run: after a loss the choice stays."""
        self._link_times = self._link_times or measure_ways([one for one in self.replicas if one.is_up])
        return self._link_times

    def use_transport(self, transport: Transport) -> None:
        """Switch all replicas to this transport. Raises ActorError, ClusterError."""
        self._transport = transport
        asked = {replica: replica.use_transport(transport) for replica in self._replicas.values()}
        # Those that still load have it before their first turn: their calls are executed in order.
        references = [reference for replica, calls in asked.items() if replica.is_up for reference in calls]
        name = transport.name
        try:
            with actor_errors(f"transport {name} cannot be used", f"an actor died while transport {name} was opened"):
                ray.get(references, timeout=self.request.start_seconds)
        except TimeoutError as error:
            limit = format_seconds(self.request.start_seconds)
            raise ClusterError(f"transport {name} was not ready within {limit} (start_timeout)") from error

    def replace(self, lost: Replica) -> None:
        """Start a new replica in the place of a lost one. Turns may be submitted to it at once;
        `poll_starting` finishes its start."""
        if (replica_id := self.id_of(lost)) is None:  # it was dropped
            return
        if lost.was_retiring:
            self._remove(replica_id)
            return
        self._starting.pop(lost, None)
        self._start_in(replica_id, self._seats[replica_id], spec=lost.spec)

    def id_of(self, replica: Replica) -> ReplicaId | None:
        """Return the id of a current replica."""
        return next((replica_id for replica_id, one in self._replicas.items() if one is replica), None)

    def add(self, agents: tuple[str, ...], node: str, *, share: ActorResources | None = None) -> ReplicaId:
        """Start one more replica of these agents (all that share an actor) on a node, with `share` instead of the
        plan's for each actor. Turns go to it once it is loaded; `poll_starting` finishes its start.

        It has the first number that is free. Ray may take long to place it: the plan does not count what other programs
        use.
        """
        taken = {one.replica for one in self._replicas if one.agents == agents}
        number = next(number for number in range(len(taken) + 1) if number not in taken)
        replica_id = ReplicaId(agents, number)
        tp = self.request.tp
        seat = next((one for one in self._free_seats if set(one.nodes) == {node}), None)
        if seat is not None:
            self._free_seats.remove(seat)
        else:
            share = share or first.share_of_added(self.plan)
            there = replace(self.plan.request, nodes=(NodeResources(name=node, num_gpus=0.0, num_cpus=0.0),))
            slots = {replica_id: tuple(Slot(0, rank) for rank in range(tp))}
            plan = replace(self.plan, request=there, share=share, slots=slots, divides_gpus=False)
            group = PlacementGroupHandle(plan, self.request.start_seconds)
            seat = first.Seat(group, tuple(range(tp)), (node,) * tp, share)
        self._start_in(replica_id, seat, spec=self.specs()[agents[0]])
        return replica_id

    def retire(self, replica_id: ReplicaId) -> None:
        """Send no new turns to a replica; `finish_retired` ends it."""
        replica = self._replicas[replica_id]
        if replica.state is not ReplicaState.READY:  # nothing was sent to it
            self._starting.pop(replica, None)
        replica.state = ReplicaState.RETIRING
        self._has_retiring = True

    def finish_retired(self, is_needed: Callable[[Replica], bool]) -> list[tuple[ReplicaId, Replica]]:
        """End the retiring replicas whose turns are over and that are not `is_needed` for segments; return them."""
        if not self._has_retiring:  # the runtime asks at every poll, and there may be a thousand replicas
            return []
        retiring = [(name, one) for name, one in self._replicas.items() if one.state is ReplicaState.RETIRING]
        over = [(name, one) for name, one in retiring if not (one.pending or is_needed(one))]
        self._has_retiring = len(over) < len(retiring)
        for replica_id, replica in over:
            self._remove(replica_id)
            replica.shut_down()
        return over

    def free_seats_on(self, node: str) -> int:
        """Return how many replicas fit into the places of retired ones on a node."""
        return sum(set(seat.nodes) == {node} for seat in self._free_seats)

    def _start_in(self, replica_id: ReplicaId, seat: first.Seat, *, spec: KVCacheSpec | None) -> None:
        """Start a replica whose turns may be submitted at once."""
        replica = self._make_replica(replica_id, seat, spec=spec)
        replica.state = ReplicaState.REPLACING
        self._replicas[replica_id], self._seats[replica_id] = replica, seat
        self._by_agent = None
        limit = self.request.start_seconds
        log = WaitLog(lambda: f"a new actor of {', '.join(replica_id.agents)}", limit)
        self._starting[replica] = StartingReplica(replica.start(self._transport), time.monotonic() + limit, log)

    def _remove(self, replica_id: ReplicaId) -> None:
        """Forget a replica and free its place."""
        self._starting.pop(self._replicas.pop(replica_id), None)
        self._by_agent = None
        seat = self._seats.pop(replica_id)
        if seat.group is self._placement_group:
            self._free_seats.append(seat)
        else:
            seat.group.remove()

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
                    raise ClusterError(no_place(self._agents_of([replica]), self.request.start_seconds)) from None
                continue
            except ActorError as error:
                died.append((replica, str(error)))
            except InputError as error:
                # It has loaded elsewhere, so this node differs.
                if replica.nodes[0] in self._first_nodes or not self.drop(replica):
                    raise
                self.avoided |= set(replica.nodes)
                _log.warning("node %s is not used: %s", replica.nodes[0][:8], reason(error))
                continue
            del self._starting[replica]
        return ready, died

    def find_orphans(self, alive: Set[str]) -> list[Replica]:
        """Return the starting replicas whose nodes are no longer `alive`."""
        return [replica for replica in self._starting if not alive >= set(replica.nodes)]

    def drop(self, replica: Replica) -> bool:
        """Remove a replica for the rest of the run. Return False, and do nothing, if an agent would have none left."""
        for members in self.replicas_of().values():
            if replica in members and not any(one.takes_turns for one in members if one is not replica):
                return False
        if (replica_id := self.id_of(replica)) is not None:
            self._remove(replica_id)
        replica.mark_dead("it could not be started again", is_at_fault=False)  # turns may be waiting for it
        return True

    def shut_down(self) -> None:
        """Kill the actors and remove the placement group. Safe to call twice."""
        replicas, self._replicas, self._starting, self._by_agent = self._replicas, {}, {}, None
        groups = {seat.group for seat in self._seats.values()}.union(filter(None, [self._placement_group]))
        self._seats, self._free_seats, self._placement_group, self._loaders = {}, [], None, Loaders()
        for replica in replicas.values():
            replica.shut_down()
        for group in groups:
            group.remove()

    def describe(self) -> str:
        """Return one line for the log: actors, devices, threads, and the reason for the placement."""
        is_pinned = self._placement_group is None or self._placement_group.is_pinned
        return describe_actors(self.plan, self.loaded, num_threads=self.num_threads, is_pinned=is_pinned)

    def plan_request(self, nodes: tuple[NodeResources, ...]) -> PlanRequest:
        """Return what to place on these nodes, without those to avoid if there are others."""
        staying = tuple(node for node in nodes if node.name not in self.avoided)
        return self.request.plan_request(staying or nodes, self.asked)

    def _threads(self, plan: Plan) -> int:
        return self.request.num_threads or plan.share.num_threads

    def _make_replicas(self, plan: Plan, cluster: Cluster, deadline: float) -> bool:
        """Create all replicas; return False if a node died before their actors were placed."""
        run = self.request.detached.namespace if self.request.detached is not None else None
        self._placement_group = PlacementGroupHandle(plan, self.request.start_seconds, detached_run=run)
        while not self._placement_group.wait(poll_seconds(deadline)):
            if cluster.has_lost_nodes():
                return False
            if time.monotonic() > deadline:
                raise ClusterError(no_place(self.request.agents, self.request.start_seconds))
        self._by_agent = None
        self._seats = first.seats_of(self._placement_group, plan)
        self._replicas = {replica_id: self._make_replica(replica_id, seat) for replica_id, seat in self._seats.items()}
        return True

    def _make_replica(self, replica_id: ReplicaId, seat: first.Seat, *, spec: KVCacheSpec | None = None) -> Replica:
        """Create a replica whose actors are in these bundles of a placement group."""
        request, plan = self.request, self.plan
        text = request.text_setup(replica_id)
        make, actor, groups = kind_of_replica(text, is_sharded=request.tp > 1)
        remote = ray.remote(
            num_gpus=seat.share.num_gpus,
            num_cpus=seat.share.num_cpus,
            # In order, a turn that waits for its segment would block the turns behind it, and after a cancelled turn an
            # actor would wait half a minute and then lose its whole queue.
            allow_out_of_order_execution=True,
            concurrency_groups=groups,
        )(actor)
        make_runner = self._loaders.store(request.runner_of(replica_id))
        named = {"key": request.key} | ({} if text is None else {"question_seconds": request.turn_seconds})
        named |= {} if request.detached is None else {"lease_seconds": request.detached.seconds}
        actors = []
        for rank, index in enumerate(seat.bundles):
            strategy = PlacementGroupSchedulingStrategy(seat.group.group, placement_group_bundle_index=index)
            more = (TPRank(rank, len(seat.bundles)),) if request.tp > 1 else ()
            arguments = (make_runner, self._threads(plan), *more)
            options = {} if request.detached is None else request.detached.options(str(replica_id))
            actors.append(remote.options(scheduling_strategy=strategy, **options).remote(*arguments, **named))
        return make(actors, seat.nodes, name=str(replica_id), colocated=plan.is_colocated, spec=spec)

    def _rejoin(self, plan: Plan) -> dict[Replica, list[Loaded]] | None:
        """Use the actors of a former driver of the run; return what they have loaded, or None if there are none."""
        ids, detached = [shard.replica_id for shard in plan.shards()], self.request.detached
        if detached is None:
            return None
        if (found := detached.find(list(map(str, ids)), PlacementGroupHandle.bundles_of(plan))) is None:
            return None
        self._placement_group, self._by_agent = PlacementGroupHandle.of(found.placement_group, plan), None
        self._seats = first.seats_of(self._placement_group, plan)
        for replica_id in ids:
            make, _, _ = kind_of_replica(self.request.text_setup(replica_id), is_sharded=False)
            self._replicas[replica_id] = make(**found.of(str(replica_id)), colocated=plan.is_colocated)
        return {self._replicas[replica_id]: [found.loaded[str(replica_id)]] for replica_id in ids}

    def _load(self, cluster: Cluster, deadline: float) -> dict[Replica, list[Loaded]] | None:
        """Load all models; return what the actors of each replica report, or None if a node died before that. With
        `least` it is enough if so many are loaded; the others go on."""
        references = {replica: replica.start() for replica in self._replicas.values()}

        def late_agents() -> list[str]:
            up = first.loaded_of(references)
            return list(dict.fromkeys(self._agents_of([replica for replica in references if replica not in up])))

        limit = self.request.start_seconds
        log = WaitLog(lambda: f"the actors of {', '.join(late_agents())} to load their models", limit)
        while True:
            begun = first.replicas_to_start_with(references, self.replicas_of(), self.request.least)
            loading = [reference for replica in begun for reference in references[replica]]
            try:
                loaded = iter(get_loaded(loading, timeout_seconds=poll_seconds(deadline)))
                break
            except TimeoutError:
                if cluster.has_lost_nodes():
                    return None
                if time.monotonic() > deadline:
                    raise ClusterError(waiting.too_late(late_agents(), limit)) from None
                log.update()
        late = {one: refs for one, refs in references.items() if one not in begun}
        self._starting.update({one: StartingReplica(refs, deadline, log) for one, refs in late.items()})
        return {replica: [next(loaded) for _ in replica.actors] for replica in begun}

    def _agents_of(self, replicas: Sequence[Replica]) -> list[str]:
        return [name for replica_id, one in self._replicas.items() if one in replicas for name in replica_id.agents]
