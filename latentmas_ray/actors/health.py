"""Health of a run's replicas: finds those that are dead, silent or stuck, and has them replaced; notices new nodes.

`RayRuntime.poll` calls `HealthMonitor.check_health` whenever it `is_due`: every `CHECK_SECONDS`, and at once while
actors were asked for a sign of life. Nothing else checks anything.
"""

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import ray

from latentmas_ray.actors.cluster import Cluster
from latentmas_ray.actors.errors import cluster_errors, get_outcome, ignoring_dead, reason
from latentmas_ray.actors.manager import LOOK_SECONDS, ReplicaManager
from latentmas_ray.actors.replicas.replica import Replica, ReplicaState, Turn
from latentmas_ray.errors import ActorError
from latentmas_ray.scheduler.events import Event, NodeJoined, ReplicaLost, ReplicaReady
from latentmas_ray.units import format_seconds

CHECK_SECONDS = LOOK_SECONDS
MAX_LOSSES = 10  # for each of an agent's replicas, while none of its turns comes to an end
# Actors of a node that die so soon one after another died of the same: none starts in that time.
ONE_FAULT_SECONDS = 2.0
_log = logging.getLogger(__name__)


class HangDetector:
    """Finds replicas whose current turn takes longer than a limit although it waits for nothing."""

    def __init__(self, turn_seconds: float | None) -> None:
        """Without `turn_seconds` no turn is ever taken to hang."""
        self._turn_seconds = turn_seconds
        self._at_work: dict[Replica, tuple[Turn, float]] = {}  # since when

    def find_hung(self, replicas: Mapping[str, Sequence[Replica]], now: float) -> list[tuple[str, Replica]]:
        """The replicas that hang, each with one of its agents. `now` is monotonic seconds; a turn counts from the first
        call that sees it at work."""
        if self._turn_seconds is None:
            return []
        before, self._at_work = self._at_work, {}
        hung: dict[Replica, str] = {}
        for agent, replica in [(agent, one) for agent, some in replicas.items() for one in some]:
            if (turn := replica.at_work) is None or replica.state is not ReplicaState.READY:
                continue
            was, since = before.get(replica, (turn, now))
            self._at_work[replica] = (turn, since if was is turn else now)
            if now - self._at_work[replica][1] > self._turn_seconds:
                hung.setdefault(replica, agent)  # agents of one actor have the same replicas
        return [(agent, replica) for replica, agent in hung.items()]

    def describe(self) -> str:
        """Why a replica that hangs is ended."""
        assert self._turn_seconds is not None
        return f"a turn took longer than {format_seconds(self._turn_seconds)} (turn_timeout), and was taken to hang"


class HealthMonitor:
    """A replica that dies is made again. Where its node is gone, the run goes on with the agent's other replicas, or
    `start_over` is called: an agent has none left."""

    def __init__(
        self,
        fleet: ReplicaManager,
        start_over: Callable[[], None],
        turn_seconds: float | None,
        on_event: Callable[[Event], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """A turn that takes longer than `turn_seconds`, with nothing to wait for, is taken to hang. `on_event` gets
        ReplicaReady, ReplicaLost and NodeJoined when they occur; `clock` tells seconds."""
        self._fleet = fleet
        self._start_over = start_over
        self._hangs = HangDetector(turn_seconds)
        self._on_event = on_event
        self._clock = clock
        self._lost_at: dict[str, float] = {}  # when an actor of a node was lost
        self._losses: Counter[str] = Counter()  # of an agent's replicas since one of its turns came to an end
        self._called: dict[ray.ObjectRef, Replica] = {}  # signs of life that were asked for
        self._checked_at = -math.inf
        self._nodes: frozenset[str] | None = None  # that were alive at the last check

    @property
    def is_due(self) -> bool:
        """Whether there is something to check by now."""
        return bool(self._called) or self._clock() - self._checked_at >= CHECK_SECONDS

    def check_health(self) -> None:
        """Check the actors that were called; every `CHECK_SECONDS` also those that start, nodes, and turns that hang.

        Raises like `ReplicaManager.poll_starting`, `mark_dead` and `start_over`, and ClusterError.
        """
        now = self._clock()
        with cluster_errors():
            self._find_silent()
            if now - self._checked_at < CHECK_SECONDS:
                return
            self._checked_at = now
            ready, died = self._fleet.poll_starting()
            self.report_ready(ready)
            for replica, why in died:
                self.mark_dead(replica, self._agents_of(replica)[0], why)
            alive = self._look_at_nodes()
        orphans = self._fleet.find_orphans(alive) if alive else []
        if not all(self._drop(replica) for replica in orphans):
            self._start_over()
        for agent, replica in self._hangs.find_hung(self._fleet.replicas_of(), now):
            self.mark_dead(replica, agent, self._hangs.describe())

    def note_success(self, agent: str) -> None:
        """A turn of the agent came to its end."""
        self._losses.pop(agent, None)

    def report_ready(self, replicas: Sequence[Replica]) -> None:
        """Report replicas that have loaded their model."""
        for replica in replicas:
            self._on_event(ReplicaReady(self._agents_of(replica), replica.nodes))

    def mark_dead(self, replica: Replica, agent: str, why: str) -> None:
        """A replica has died, or is to: have it replaced. Of several lost with their node one at most died of
        its turn. Raises ActorError if the agent's replicas die again and again."""
        now = self._clock()
        is_alone = all(now - self._lost_at.get(node, -math.inf) > ONE_FAULT_SECONDS for node in replica.nodes)
        self._lost_at.update(dict.fromkeys(replica.nodes, now))
        replica.mark_dead(why, is_at_fault=is_alone and replica not in self._called.values())
        self._on_event(ReplicaLost(self._agents_of(replica), replica.nodes, why))
        self._losses[agent] += 1
        if self._losses[agent] > MAX_LOSSES * len(self._fleet.replicas_of()[agent]):
            raise ActorError(
                f"the actor of agent {agent} died {self._losses[agent]} times, and none of its turns came to an end "
                f"between: {why}"
            )
        _log.info("an actor of agent %s died and is started again: %s", agent, why)
        self._fleet.replace(replica)
        self._call_others(replica)

    def mark_all_dead(self, why: str) -> None:
        """All replicas are to be ended, none of them because of a turn; nothing is replaced."""
        for replica in self._fleet.replicas:
            replica.mark_dead(why, is_at_fault=False)
            self._on_event(ReplicaLost(self._agents_of(replica), replica.nodes, replica.lost_because))

    def _drop(self, replica: Replica) -> bool:
        agents = self._agents_of(replica)
        if not self._fleet.drop(replica):
            return False
        self._on_event(ReplicaLost(agents, replica.nodes, replica.lost_because))
        return True

    def _call_others(self, lost: Replica) -> None:
        """Its node may be gone with it. Ray tells that half a minute later or more; a call to an actor whose process is
        no more can fail at once."""
        called = {*self._called.values(), lost}
        for other in set(self._fleet.replicas) - called:
            if other.state is ReplicaState.READY and not set(other.nodes).isdisjoint(lost.nodes):
                self._called.update(dict.fromkeys(other.call(), other))

    def _find_silent(self) -> None:
        """Lose the replicas of which an actor was called and is dead."""
        answered = ray.wait(list(self._called), num_returns=len(self._called), timeout=0)[0] if self._called else []
        for reference in answered:
            replica, answer = self._called[reference], get_outcome(reference)
            if isinstance(answer, Exception) and replica.state is not ReplicaState.LOST:
                self.mark_dead(replica, self._agents_of(replica)[0], reason(answer))
            del self._called[reference]

    def _look_at_nodes(self) -> frozenset[str]:
        """The nodes that are alive; those of the last check, or none, if Ray does not say. New ones are reported."""
        before = self._nodes
        with ignoring_dead("nodes were not listed"):
            self._nodes = Cluster.look(owned=False).node_ids
        for node in sorted((self._nodes or frozenset()) - (before or self._nodes or frozenset())):
            self._on_event(NodeJoined(node))
        return self._nodes or frozenset()

    def _agents_of(self, replica: Replica) -> tuple[str, ...]:
        return tuple(agent for agent, replicas in self._fleet.replicas_of().items() if replica in replicas)
