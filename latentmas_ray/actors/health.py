"""Keeps the replicas of a run going: finds those that are dead, silent or stuck, and has them made again."""

import logging
import math
import time
from collections import Counter
from collections.abc import Callable

import ray
from ray.exceptions import RayError

from latentmas_ray.actors.manager import LOOK_SECONDS, ReplicaManager
from latentmas_ray.actors.replicas.replica import Replica, Turn, reason
from latentmas_ray.errors import ActorError, ClusterError
from latentmas_ray.units import format_seconds

MAX_LOSSES = 10  # for each of an agent's replicas, while none of its turns comes to an end
# Actors of a node that die so soon one after another died of the same: none starts in that time.
ONE_FAULT_SECONDS = 2.0
_log = logging.getLogger(__name__)


class HealthMonitor:
    """A replica that dies is made again. Where its node is gone, the run goes on with the agent's other replicas, or
    `start_over` is called: an agent has none left."""

    def __init__(self, fleet: ReplicaManager, start_over: Callable[[], None], turn_seconds: float | None) -> None:
        """A turn that takes longer than `turn_seconds`, with nothing to wait for, is taken to hang."""
        self._fleet = fleet
        self._start_over = start_over
        self._turn_seconds = turn_seconds
        self._lost_at: dict[str, float] = {}  # when an actor of a node was lost
        self._losses: Counter[str] = Counter()  # of an agent's replicas since one of its turns came to an end
        self._at_work: dict[Replica, tuple[Turn, float]] = {}  # since when
        self._called: dict[ray.ObjectRef, Replica] = {}  # signs of life that were asked for
        self._looked_at = 0.0

    def note_success(self, agent: str) -> None:
        """A turn of the agent came to its end."""
        self._losses.pop(agent, None)

    def lose(self, replica: Replica, agent: str, why: str) -> None:
        """A replica has died, or is to: have it made again. Of several lost with their node one at most died of
        its turn. Raises ActorError if the agent's replicas die again and again."""
        now = time.monotonic()
        is_alone = all(now - self._lost_at.get(node, -math.inf) > ONE_FAULT_SECONDS for node in replica.nodes)
        self._lost_at.update(dict.fromkeys(replica.nodes, now))
        replica.lose(why, is_at_fault=is_alone and replica not in self._called.values())
        self._losses[agent] += 1
        if self._losses[agent] > MAX_LOSSES * len(self._fleet.replicas_of()[agent]):
            raise ActorError(
                f"the actor of agent {agent} died {self._losses[agent]} times, and none of its turns came to an end "
                f"between: {why}"
            )
        _log.info("an actor of agent %s died and is started again: %s", agent, why)
        self._fleet.replace(replica)
        self._call_others(replica)

    def check_health(self) -> None:
        """Actors that were called; every few seconds also those that start, nodes that are gone, turns that hang.

        Raises like `ReplicaManager.poll_starting`, `lose` and `start_over`.
        """
        now = time.monotonic()
        try:
            self._find_silent()
            if now - self._looked_at < LOOK_SECONDS:
                return
            self._looked_at = now
            for replica, why in self._fleet.poll_starting():
                self.lose(replica, self._agent_of(replica), why)
            stranded = self._fleet.find_orphans()
        except RayError as error:
            raise ClusterError(f"the cluster does not answer: {error}") from error
        if not all(self._fleet.drop(replica) for replica in stranded):
            self._start_over()
        self._end_those_that_hang(now)

    def _call_others(self, lost: Replica) -> None:
        """Its node may be gone with it. Ray tells that half a minute later or more; a call to an actor whose process is
        no more can fail at once."""
        called = {*self._called.values(), lost}
        for other in {one for replicas in self._fleet.replicas_of().values() for one in replicas} - called:
            if other.is_up and not set(other.nodes).isdisjoint(lost.nodes):
                self._called.update(dict.fromkeys(other.call(), other))

    def _find_silent(self) -> None:
        """Lose the replicas of which an actor was called and is dead."""
        answered = ray.wait(list(self._called), num_returns=len(self._called), timeout=0)[0] if self._called else []
        for reference in answered:
            replica = self._called[reference]
            try:
                ray.get(reference)
            except RayError as error:
                if replica.lost is None:
                    self.lose(replica, self._agent_of(replica), reason(error))
            del self._called[reference]

    def _end_those_that_hang(self, now: float) -> None:
        if self._turn_seconds is None:
            return
        before, self._at_work = self._at_work, {}
        for agent, replica in [(agent, one) for agent, some in self._fleet.replicas_of().items() for one in some]:
            # Agents of one actor have the same replicas, of which one may have been ended just now.
            if (turn := replica.at_work) is None or not replica.is_up or replica.lost:
                continue
            was, since = before.get(replica, (turn, now))
            self._at_work[replica] = (turn, since if was is turn else now)
            if now - self._at_work[replica][1] > self._turn_seconds:
                limit = format_seconds(self._turn_seconds)
                self.lose(replica, agent, f"a turn took longer than {limit} (turn_timeout), and was taken to hang")

    def _agent_of(self, replica: Replica) -> str:
        return next(agent for agent, replicas in self._fleet.replicas_of().items() if replica in replicas)
