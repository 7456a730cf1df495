"""Lets the replicas of a run follow the cluster: adds them where there is room, and takes them off leaving nodes."""

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from math import floor

from latentmas_ray.actors.elastic.autoscaler import ask_autoscaler
from latentmas_ray.actors.elastic.decide import (
    Agents,
    Decision,
    Retirement,
    Room,
    Situation,
    Standing,
    decide,
    find_shift,
)
from latentmas_ray.actors.elastic.first import share_of_added
from latentmas_ray.actors.elastic.nodes import NodeSupply, SupplyWatch
from latentmas_ray.actors.health.monitor import HealthMonitor
from latentmas_ray.actors.manager import ReplicaManager
from latentmas_ray.actors.replicas.replica import Replica, ReplicaState
from latentmas_ray.errors import InputError
from latentmas_ray.placement import NodeResources, ReplicaId, make_plan
from latentmas_ray.placement.resources import ActorResources
from latentmas_ray.runs.run_events import NodeDraining, ReplicaRetired
from latentmas_ray.scheduler.protocol import CapacityChanged, Event

_PLACING_SECONDS = 10.0  # in which Ray places an actor; until then what it asks for may still count as free
_MEMORY_OF_LOAD = 0.8  # how much of the load of earlier looks counts at the next one
_LOOKS_TO_SHIFT = 15  # the load of so many is known before a replica works for another agent
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Growth:
    """How far replicas follow the cluster. `most` is how many an agent may have, if it is not the number that the run
    asks for; None: as many as there is room for."""

    most: Mapping[str, int | None] = field(default_factory=dict)
    least: Mapping[str, int] = field(default_factory=dict)  # with how many a run may start, if not with all
    rebalances: bool = False  # a replica of an idle agent may end for one of the agent that holds the others up


class ClusterFollower:
    """Decides every few seconds, and carries that out with the manager. `update` never waits."""

    def __init__(
        self,
        manager: ReplicaManager,
        health: HealthMonitor,
        growth: Growth,
        on_event: Callable[[Event], None],
        is_needed: Callable[[Replica], bool],
        *,
        watch: SupplyWatch | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`is_needed` says whether segments that a replica has written may still be read."""
        self._manager, self._health, self._growth, self._on_event, self._is_needed = (
            manager,
            health,
            growth,
            on_event,
            is_needed,
        )
        self._watch, self._clock = watch or SupplyWatch(), clock
        self._load: dict[Agents, float] = {}
        self._busy: dict[Agents, float] = {}  # the part of the time in which a replica has a turn
        self._num_looks = 0  # since the last shift
        self._draining: frozenset[str] = frozenset()
        self._placing: list[tuple[float, str]] = []  # when and where replicas were added
        self._moves: dict[ReplicaId, ReplicaId] = {}  # a new replica and the one that it takes over from
        self._planned: tuple[frozenset[str], dict[str, int]] | None = None
        self._capacity: CapacityChanged | None = None
        self._num_asked = 0  # actors for which the autoscaler was asked for places

    @property
    def may_grow(self) -> bool:
        """Whether there may be more replicas than the run asks for."""
        return bool(self._growth.most or self._growth.least)

    def update(self) -> None:
        """Look at the cluster if that is due, add and retire; end replicas that have retired."""
        for replica_id, replica in self._manager.finish_retired(self._is_needed):
            why = "it has retired"
            self._on_event(ReplicaRetired(replica_id.agents, replica.nodes, why, replica.name))
        if (nodes := self._watch.take()) is None:
            return
        self._note_draining(nodes)
        self._measure_load()
        situation = self.situation(nodes)
        self._ask_autoscaler(situation)
        for decision in [*self._finished_moves(), *self._shift(situation), *decide(situation)]:
            self._carry_out(decision)
        self._report_capacity()

    def reset(self) -> None:
        """Forget what was under way: all replicas are started again."""
        self._placing, self._moves, self._planned = [], {}, None

    def close(self) -> None:
        """Take back what the autoscaler was asked for."""
        if self._num_asked:
            self._watch.run(partial(ask_autoscaler, 0, share_of_added(self._manager.plan)))
            self._num_asked = 0
        self._watch.close()

    def _ask_autoscaler(self, situation: Situation) -> None:
        """Ask for places for all replicas that the run should have, while some are missing."""
        wanted = {agents: situation.most[agents] or count for agents, count in situation.asked.items()}
        if not self._num_asked and all(len(situation.staying(agents)) >= count for agents, count in wanted.items()):
            return
        count = sum(wanted.values()) * self._manager.plan.request.tp
        if count != self._num_asked:
            self._num_asked = count
            self._watch.run(partial(ask_autoscaler, count, share_of_added(self._manager.plan)))

    def situation(self, nodes: Mapping[str, NodeSupply]) -> Situation:
        """Return what decides, for these nodes."""
        manager = self._manager
        kinds = list(dict.fromkeys(replica_id.agents for replica_id in manager.plan.slots))
        asked = {agents: manager.asked[agents[0]] for agents in kinds}
        most = {
            agents: self._growth.most[agents[0]] if agents[0] in self._growth.most else asked[agents]
            for agents in kinds
        }
        moving = Counter(agents.agents for agents in self._moves)
        return Situation(
            standing=[_standing(replica_id, replica) for replica_id, replica in manager.by_id.items()],
            rooms=self._rooms(nodes),
            asked=asked,
            # A replica that is moved is there twice for a while.
            most={agents: None if count is None else count + moving[agents] for agents, count in most.items()},
            writers=frozenset(agents for agents in kinds if set(agents) <= set(manager.request.texts)),
            load=self._load,
            planned=self._planned_for(nodes),
        )

    def _rooms(self, nodes: Mapping[str, NodeSupply]) -> dict[str, Room]:
        """Return the room on each node that the run's transport can reach."""
        manager, now = self._manager, self._clock()
        share, tp = share_of_added(manager.plan), manager.plan.request.tp
        self._placing = [(at, node) for at, node in self._placing if now - at < _PLACING_SECONDS]
        placing = Counter(node for _, node in self._placing)
        used = {node for replica in manager.replicas for node in replica.nodes}
        lost = self._health.unreachable_nodes  # though Ray may list them
        rooms = {}
        for name, node in nodes.items():
            is_usable = name not in lost and (name not in manager.avoided or node.is_draining)
            can_reach = is_usable and (name in used or manager.reaches_other_nodes)
            places = places_on(node, share, tp, manager.num_threads) - placing[name] + manager.free_seats_on(name)
            rooms[name] = Room(
                places=max(0, places) if can_reach else 0,
                is_draining=node.is_draining,
                can_squeeze=can_reach and not share.num_gpus,
            )
        return rooms

    def _planned_for(self, nodes: Mapping[str, NodeSupply]) -> dict[str, int]:
        """Return how many replicas a plan for all nodes that stay would put on each; nothing if none may move."""
        if self._manager.request.planner.keeps_layout:
            return {}
        staying = {name: node for name, node in nodes.items() if not node.is_draining}
        if self._planned is not None and self._planned[0] == staying.keys():
            return self._planned[1]
        resources = [
            NodeResources(name=name, num_gpus=node.num_gpus, num_cpus=node.num_cpus) for name, node in staying.items()
        ]
        counts: Counter[str] = Counter()
        try:
            plan = make_plan(self._manager.plan_request(tuple(resources)))
            counts.update(resources[slots[0].node].name for slots in plan.slots.values())
        except InputError:  # nothing moves
            pass
        self._planned = frozenset(staying), dict(counts)
        return self._planned[1]

    def _note_draining(self, nodes: Mapping[str, NodeSupply]) -> None:
        draining = frozenset(name for name, node in nodes.items() if node.is_draining)
        for name in sorted(draining - self._draining):
            self._on_event(NodeDraining(name))
        self._manager.avoided = (self._manager.avoided - self._draining) | draining
        self._draining = draining

    def _measure_load(self) -> None:
        """Count the turns whose input is there, per replica that takes turns."""
        ready: defaultdict[Agents, list[int]] = defaultdict(list)
        for replica_id, replica in self._manager.by_id.items():
            if replica.state is ReplicaState.READY:
                ready[replica_id.agents].append(sum(turn.ready_at is not None for turn in replica.pending))
        for agents, counts in ready.items():
            for known, now in (
                (self._load, sum(counts) / len(counts)),
                (self._busy, sum(count > 0 for count in counts) / len(counts)),
            ):
                known[agents] = _MEMORY_OF_LOAD * known.get(agents, now) + (1 - _MEMORY_OF_LOAD) * now
        self._num_looks += 1

    def _finished_moves(self) -> list[Decision]:
        """Return the retirement of each replica whose successor is loaded."""
        found: list[Decision] = []
        by_id = self._manager.by_id
        for new, old in list(self._moves.items()):
            if new not in by_id or old not in by_id:
                del self._moves[new]
            elif by_id[new].state is ReplicaState.READY:
                del self._moves[new]
                found.append(Retirement(replica_id=old, why=f"{new} works on another node"))
        return found

    def _shift(self, situation: Situation) -> list[Decision]:
        """With `rebalances`, and once enough was measured, let a replica of an idle agent work for the bottleneck."""
        if not self._growth.rebalances or self._num_looks < _LOOKS_TO_SHIFT:
            return []
        if (shift := find_shift(situation, self._busy)) is None:
            return []
        asked = self._manager.asked
        asked[shift.giver[0]] -= 1
        asked[shift.taker[0]] += 1
        self._busy, self._num_looks, self._planned = {}, 0, None
        return [Retirement(replica_id=shift.replica_id, why=shift.why)]

    def _carry_out(self, decision: Decision) -> None:
        if isinstance(decision, Retirement):
            replica = self._manager.by_id.get(decision.replica_id)
            if replica is not None and replica.takes_turns:
                self._manager.retire(decision.replica_id)
                _log.warning("%s gets no new work: %s", decision.replica_id, decision.why)
            return
        share = replace(share_of_added(self._manager.plan), num_cpus=0.0) if decision.squeezed else None
        replica_id = self._manager.add(decision.agents, decision.node, share=share)
        self._placing.append((self._clock(), decision.node))
        if decision.instead_of is not None:
            self._moves[replica_id] = decision.instead_of
        _log.warning("%s starts on node %s: %s", replica_id, decision.node[:8], decision.why)

    def _report_capacity(self) -> None:
        """Emit how much work can be in flight, if that has changed."""
        by_agent = self._manager.replicas_of().values()
        count = max((sum(one.takes_turns for one in replicas) for replicas in by_agent), default=1)
        capacity = CapacityChanged(count, self._manager.request.with_stand_ins(self._manager.writes_at_once()))
        if self._capacity is not None and capacity != self._capacity:
            self._on_event(capacity)
        self._capacity = capacity


def places_on(node: NodeSupply, share: ActorResources, tp: int, num_threads: int) -> int:
    """Return how many replicas fit into what is free on a node. Without GPUs each takes as many cores as it has
    threads, where there are so many."""
    limits = []
    if share.num_gpus:
        limits.append(floor(node.free_gpus / (share.num_gpus * tp) + 1e-6))
    if share.num_cpus:
        by_share = floor(node.free_cpus / (share.num_cpus * tp) + 1e-6)
        by_threads = floor(node.free_cpus / (max(share.num_cpus, num_threads) * tp) + 1e-6)
        limits.append(by_share if share.num_gpus else max(min(1, by_share), by_threads))
    return min(limits, default=0)


def _standing(replica_id: ReplicaId, replica: Replica) -> Standing:
    return Standing(
        replica_id=replica_id,
        nodes=replica.nodes,
        is_ready=replica.state is ReplicaState.READY,
        is_retiring=replica.state is ReplicaState.RETIRING,
    )
