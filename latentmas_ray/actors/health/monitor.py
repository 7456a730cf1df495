"""Health checks: finds replicas that are dead, silent or hang and has them replaced; reports nodes that came or went.

`RayRuntime.poll` calls `HealthMonitor.check_health` whenever it `is_due`: every `CHECK_SECONDS`, and at every poll
while pings are unanswered, and every `LOOK_SECONDS` for the lines to the nodes; and `check_hangs` once it knows which
turns have ended. There are no other health checks.
"""

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace

import ray

from latentmas_ray.actors.cluster import Cluster
from latentmas_ray.actors.errors import cluster_errors, get_outcome, ignoring_dead, reason
from latentmas_ray.actors.health.node_watch import LOOK_SECONDS, NodeChange, NodeState, NodeWatch
from latentmas_ray.actors.manager import ReplicaManager
from latentmas_ray.actors.replicas.replica import Replica, ReplicaState, Turn
from latentmas_ray.actors.replicas.waiting import POLL_SECONDS
from latentmas_ray.errors import ActorError
from latentmas_ray.runs.run_events import NodeJoined, NodeLost, ReplicaLost, ReplicaReady
from latentmas_ray.scheduler.protocol import Event
from latentmas_ray.units import format_seconds

CHECK_SECONDS = POLL_SECONDS
MAX_LOSSES = 10  # per replica of an agent, without a finished turn in between
_MAX_GAP_SECONDS = 2 * CHECK_SECONDS  # between two checks; after a longer one the driver has not looked
# Actors of one node that die within this time died of the same cause, unless they were started after the first of them.
ONE_FAULT_SECONDS = 2.0
_log = logging.getLogger(__name__)


class HangDetector:
    """Finds replicas that hang: their current turn takes longer than a limit although its input is ready, or, of those
    that report their engine's steps, none was made for as long."""

    def __init__(self, turn_seconds: float | None) -> None:
        """`turn_seconds` is the limit for one turn; None switches the detection off."""
        self._turn_seconds = turn_seconds
        self._looked_at = -math.inf
        self._looked_seconds = 0.0  # time in which the driver looked
        # The turn, when its engine was seen to step last, and since when both are so, in seconds of `_looked_seconds`.
        self._current: dict[Replica, tuple[Turn, float | None, float]] = {}

    def find_hung(self, replicas: Mapping[str, Sequence[Replica]], now: float) -> list[tuple[str, Replica]]:
        """Return the replicas that hang, each with one of its agents.

        `now` is monotonic seconds; a turn's time starts at the first call that sees it running. Time between two
        looks that are far apart does not count: the caller of a run may pause for longer than a turn may take.
        """
        if self._turn_seconds is None:
            return []
        gap, self._looked_at = now - self._looked_at, now
        self._looked_seconds += gap if gap <= _MAX_GAP_SECONDS else 0.0
        before, self._current = self._current, {}
        hung: dict[Replica, str] = {}
        for agent, replica in [(agent, one) for agent, members in replicas.items() for one in members]:
            if (turn := replica.current_turn) is None or not replica.is_up:
                continue
            was, stepped_at, since = before.get(replica, (None, None, 0.0))
            if was is not turn or stepped_at != replica.stepped_at:
                since = self._looked_seconds
            self._current[replica] = (turn, replica.stepped_at, since)
            if self._looked_seconds - since > self._turn_seconds:
                hung.setdefault(replica, agent)  # agents of one actor have the same replicas
        return [(agent, replica) for replica, agent in hung.items()]

    def describe(self, replica: Replica) -> str:
        """Return the reason for which a replica that hangs is shut down."""
        assert self._turn_seconds is not None
        limit = format_seconds(self._turn_seconds)
        what = (
            f"a turn took longer than {limit}" if replica.stepped_at is None else f"its engine made no step in {limit}"
        )
        return f"{what} (turn_timeout), and was taken to hang"


@dataclass(frozen=True)
class _Fault:
    """Something of which replicas on a node die: when the last one did, and the replicas there were at the first."""

    at: float
    replicas: frozenset[Replica]


class HealthMonitor:
    """Replaces replicas that are lost. If their node is lost too, the run continues with the agent's other replicas; if
    an agent has none left, it calls `restart_all`."""

    def __init__(
        self,
        manager: ReplicaManager,
        restart_all: Callable[[], None],
        turn_seconds: float | None,
        on_event: Callable[[Event], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        watch: NodeWatch | None = None,
    ) -> None:
        """`turn_seconds` is the limit of `HangDetector`. `on_event` gets ReplicaReady, ReplicaLost, NodeJoined and
        NodeLost; `clock` returns seconds; `watch` is one of the nodes (default: over TCP)."""
        self._manager = manager
        self._restart_all = restart_all
        self._hangs = HangDetector(turn_seconds)
        self._on_event = on_event
        self._clock = clock
        self._faults: dict[str, _Fault] = {}  # by node: the last one
        self._losses: Counter[str] = Counter()  # by agent, since its last finished turn
        self._pinged: dict[ray.ObjectRef, Replica] = {}  # unanswered pings
        self._checked_at = self._hangs_checked_at = -math.inf
        self._nodes: frozenset[str] | None = None  # alive at the last check
        self._watch = watch or NodeWatch()
        self._why_lost: dict[str, NodeChange] = {}  # by node
        self._given_up: set[str] = set()  # silent nodes with replicas that were given up
        self._looked_at = -math.inf

    @property
    def is_due(self) -> bool:
        """Whether `check_health` should be called now."""
        now = self._clock()
        is_late = now - self._looked_at >= LOOK_SECONDS or now - self._checked_at >= CHECK_SECONDS
        return is_late or bool(self._pinged)

    @property
    def gone_nodes(self) -> frozenset[str]:
        """The nodes that have ended, though Ray may still list them as alive."""
        return self._watch.gone

    @property
    def lost_nodes(self) -> frozenset[str]:
        """Those, and the silent ones whose replicas were given up: what they store is out of reach."""
        return self._watch.gone | (self._watch.silent & self._given_up)

    @property
    def unreachable_nodes(self) -> frozenset[str]:
        """The nodes that have ended or do not answer: nothing is started there."""
        return self._watch.gone | self._watch.silent

    def watch(self, cluster: Cluster) -> None:
        """Watch the nodes of a cluster from now on, before the first check: one may be lost while models are loaded."""
        self._watch.watch(cluster.addresses)

    def check_health(self) -> None:
        """Check answers to pings and lines to nodes; every `CHECK_SECONDS` also starting replicas and Ray's nodes.

        Raises like `ReplicaManager.poll_starting`, `mark_dead` and `restart_all`, and ClusterError.
        """
        now = self._clock()
        with cluster_errors():
            self._look_at_nodes(now)
            self._check_pings()
            if now - self._checked_at < CHECK_SECONDS:
                return
            self._checked_at = now
            alive = self._inspect_nodes() - self._watch.gone
        self._leave_lost_nodes(alive)
        with cluster_errors():
            ready, died = self._manager.poll_starting()
            self.report_ready(ready)
            for replica, why in died:
                self.mark_dead(replica, self._agents_of(replica)[0], why)
        self._leave_lost_nodes(alive)

    def close(self) -> None:
        """Watch no nodes any more. Safe to call twice."""
        self._watch.close()

    def check_hangs(self) -> None:
        """Every `CHECK_SECONDS` mark the replicas dead that hang. The results that are there must have been fetched.

        Raises like `mark_dead`.
        """
        now = self._clock()
        if now - self._hangs_checked_at < CHECK_SECONDS:
            return
        self._hangs_checked_at = now
        for agent, replica in self._hangs.find_hung(self._manager.replicas_of(), now):
            self.mark_dead(replica, agent, self._hangs.describe(replica))

    def record_success(self, agent: str) -> None:
        """Reset the count of losses of an agent: one of its turns has finished."""
        self._losses.pop(agent, None)

    def report_ready(self, replicas: Sequence[Replica]) -> None:
        """Emit ReplicaReady for replicas that have loaded their model."""
        for replica in replicas:
            self._on_event(ReplicaReady(self._agents_of(replica), replica.nodes, replica.name))

    def mark_dead(self, replica: Replica, agent: str, why: str, *, with_node: bool = False) -> None:
        """Shut down a replica that died or hangs, and replace it. `with_node`: its node is known to be lost.

        If several are lost with their node, at most the first is blamed on its turn. Raises ActorError if the agent's
        replicas die again and again.
        """
        is_first = self._is_first_of_fault(replica)
        is_blamed = is_first and not with_node and replica not in self._pinged.values()
        replica.mark_dead(why, is_at_fault=is_blamed, with_node=with_node)
        self._on_event(ReplicaLost(self._agents_of(replica), replica.nodes, why, replica.name))
        self._losses[agent] += 1
        if self._losses[agent] > MAX_LOSSES * len(self._manager.replicas_of()[agent]):
            raise ActorError(
                f"the actor of agent {agent} died {self._losses[agent]} times, and none of its turns finished "
                f"in between: {why}"
            )
        _log.info("an actor of agent %s died and is replaced: %s", agent, why)
        self._manager.replace(replica)
        self._ping_neighbours(replica)

    def _is_first_of_fault(self, lost: Replica) -> bool:
        """Record the loss of a replica; return whether it did not die of what others on its nodes have just died of."""
        now, is_first = self._clock(), True
        for node in lost.nodes:
            fault = self._faults.get(node)
            if fault is not None and lost in fault.replicas and now - fault.at <= ONE_FAULT_SECONDS:
                is_first = False
                self._faults[node] = replace(fault, at=now)
            else:
                self._faults[node] = _Fault(now, frozenset(self._manager.replicas))
        return is_first

    def mark_all_dead(self, why: str) -> None:
        """Shut down all replicas without blaming a turn and without replacing them."""
        for replica in self._manager.replicas:
            replica.mark_dead(why, is_at_fault=False)
            self._on_event(ReplicaLost(self._agents_of(replica), replica.nodes, replica.lost_because, replica.name))

    def _leave_lost_nodes(self, alive: Set[str]) -> None:
        """Drop replicas that start on nodes which are not alive, or restart all if an agent has no other."""
        orphans = self._manager.find_orphans(alive) if alive else []
        if not all(self._drop(replica) for replica in orphans):
            self._restart_all()

    def _look_at_nodes(self, now: float) -> None:
        """Every `LOOK_SECONDS` read the lines to the nodes, and give up replicas whose nodes do not answer."""
        if now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = now
        for change in self._watch.look():
            _log.warning("node %s at %s: %s", change.node[:12], change.host, change.why)
            if change.state is NodeState.LIVE:
                self._given_up.discard(change.node)
                self._on_event(NodeJoined(change.node))
                continue
            self._on_event(NodeLost(change.node, change.why))
            self._why_lost[change.node] = change
            if change.state is NodeState.GONE:
                self._end_connections(change.node)
            elif agents := self._only_there(change.node):
                _log.warning(
                    "%s: all actors are on that node; the run waits until it answers or Ray gives it up",
                    ", ".join(agents),
                )
            self._checked_at = -math.inf  # what starts on a node that is gone must start elsewhere
        for node in self._watch.gone | self._watch.silent:  # others may be ready only now to do its work
            self._give_up_node(self._why_lost[node])

    def _give_up_node(self, lost: NodeChange) -> None:
        """Mark the replicas on a lost node dead, without a suspect turn; on a silent one, which may come back, only
        those whose agents have another replica."""
        for replica in self._manager.replicas:
            is_here = lost.node in replica.nodes and replica.is_up
            if is_here and (lost.state is NodeState.GONE or self._has_substitutes(replica)):
                self._given_up.add(lost.node)
                self.mark_dead(replica, self._agents_of(replica)[0], f"its node is lost: {lost.why}", with_node=True)
                self._end_connections(lost.node)

    def _end_connections(self, node: str) -> None:
        """Let actors on other nodes end their connections to a lost one: a reader would wait for an answer."""
        if (host := self._watch.lost_host(node)) is None:
            return
        for replica in self._manager.replicas:
            if replica.is_up and node not in replica.nodes:
                replica.end_connections(host)

    def _only_there(self, node: str) -> list[str]:
        """Return the agents whose work waits for a silent node."""
        here = [
            one for one in self._manager.replicas if node in one.nodes and one.is_up and not self._has_substitutes(one)
        ]
        return sorted({agent for replica in here for agent in self._agents_of(replica)})

    def _has_substitutes(self, replica: Replica) -> bool:
        """Return whether every agent of a replica has another one on nodes that answer."""
        lost = self._watch.gone | self._watch.silent
        return all(
            any(one.state is ReplicaState.READY and lost.isdisjoint(one.nodes) for one in members if one is not replica)
            for members in self._manager.replicas_of().values()
            if replica in members
        )

    def _drop(self, replica: Replica) -> bool:
        agents = self._agents_of(replica)
        if not self._manager.drop(replica):
            return False
        self._on_event(ReplicaLost(agents, replica.nodes, replica.lost_because, replica.name))
        return True

    def _ping_neighbours(self, lost: Replica) -> None:
        """Ping the other replicas on the nodes of a lost one.

        The node may be lost too. Ray reports that half a minute later or more; a call to a dead process can fail at
        once.
        """
        pinged = {*self._pinged.values(), lost}
        for other in set(self._manager.replicas) - pinged:
            if other.is_up and not set(other.nodes).isdisjoint(lost.nodes):
                self._pinged.update(dict.fromkeys(other.ping(), other))

    def _check_pings(self) -> None:
        """Mark the replicas dead whose actors answered a ping with an error."""
        answered = ray.wait(list(self._pinged), num_returns=len(self._pinged), timeout=0)[0] if self._pinged else []
        for reference in answered:
            replica, answer = self._pinged[reference], get_outcome(reference)
            if isinstance(answer, Exception) and replica.state is not ReplicaState.LOST:
                self.mark_dead(replica, self._agents_of(replica)[0], reason(answer))
            del self._pinged[reference]

    def _inspect_nodes(self) -> frozenset[str]:
        """Return the live nodes (if Ray does not answer, those of the last check); emit NodeJoined for new ones."""
        before = self._nodes
        with ignoring_dead("nodes were not listed"):
            cluster = Cluster.inspect(owned=False)
            self._nodes = cluster.node_ids
            self.watch(cluster)
        for node in sorted((self._nodes or frozenset()) - (before or self._nodes or frozenset())):
            self._on_event(NodeJoined(node))
        return self._nodes or frozenset()

    def _agents_of(self, replica: Replica) -> tuple[str, ...]:
        return tuple(agent for agent, replicas in self._manager.replicas_of().items() if replica in replicas)
