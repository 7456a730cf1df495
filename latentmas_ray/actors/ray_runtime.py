"""Replicas of every agent on Ray. References are chained: a segment goes from actor to actor as a reference, and the
driver never touches its bytes."""

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from weakref import WeakSet

import ray

from latentmas_ray.actors.cluster import Cluster, connect_as_configured
from latentmas_ray.actors.errors import cluster_errors
from latentmas_ray.actors.execute_turn import Runner
from latentmas_ray.actors.given_memory import GivenMemoryStore
from latentmas_ray.actors.health import HealthMonitor
from latentmas_ray.actors.manager import ReplicaManager, ReplicaRequest
from latentmas_ray.actors.measure_links import measure_costs
from latentmas_ray.actors.replicas.replica import Replica, ReplicaState, SegmentRef, Turn
from latentmas_ray.actors.replicas.routing import choose_replica
from latentmas_ray.config import PlacementName, replicas_by_agent
from latentmas_ray.engine.turn import TurnRequest, TurnResult
from latentmas_ray.env import read_environment
from latentmas_ray.errors import ActorError, ClusterError, InputError, LatentMASError, TurnLostError
from latentmas_ray.memory.codec import coded_bytes
from latentmas_ray.memory.spec import WHOLE
from latentmas_ray.scheduler.events import (
    Event,
    ReplicaLost,
    TurnFailed,
    TurnHandle,
    TurnLost,
    events_of_result,
    without_frames,
)
from latentmas_ray.scheduler.protocol import RuntimeInfo
from latentmas_ray.transport import DeviceLayout, Transport

_STORE_SHARE = 0.5  # of the object store may be held by segments in flight, so that nothing spills
_SAMPLE_TOKENS = 1000  # of which a codec's bytes per token are counted
MAX_STARTS = 3  # of all actors anew: another node may die meanwhile
PickTransport = Callable[[DeviceLayout], tuple[Transport, str]]
_log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Submitted:
    """A turn at its replica."""

    turn: Turn
    replica: Replica


class RayRuntime:
    """Carries out turns on actors. A replica that dies is made again; where its node is gone, the run goes on with the
    agent's other replicas, or all are placed anew on the nodes that are left."""

    def __init__(
        self,
        agents: Sequence[str],
        make_runner: Callable[..., Runner],
        transport: Transport | PickTransport,
        *,
        address: str | None = None,
        cluster: Cluster | None = None,
        replicas: int | Mapping[str, int] = 1,
        placement: PlacementName = "auto",
        tp: int = 1,
        busy_agents: int = 1,
        uses_gpus: bool = True,
        overlap: bool = True,
        measures_costs: bool = False,
        turn_seconds: float | None = None,
    ) -> None:
        """`busy_agents` is how many agents can work at the same time; on CPUs it decides the threads of each. Without
        `uses_gpus` no GPU is asked for. With `overlap` the memory of a prompt travels while its agent still thinks.
        `transport` may be a function that picks one, and says why, once it is known where the actors are.
        `measures_costs` has `start` measure what the choice between KV and recompute inputs rests on. With `tp` above 1
        every replica is so many actors, and `make_runner(ranks=…)` loads one rank's part of the model. A turn that
        takes longer than `turn_seconds`, with nothing to wait for, is taken to hang, and its replica is ended.
        `cluster` is a connection that there is already, in place of one to `address`; `close` ends it if it is owned.
        """
        self._fleet = ReplicaManager(
            ReplicaRequest(
                agents=tuple(agents),
                replicas=replicas_by_agent(replicas, agents),
                make_runner=make_runner,
                placement=placement,
                tp=tp,
                busy_agents=busy_agents,
                uses_gpus=uses_gpus,
                num_threads=read_environment().torch_threads,
            )
        )
        self._health = HealthMonitor(self._fleet, self._start_over, turn_seconds, self._note_event)
        self._pending: dict[TurnHandle, frozenset[str]] = {}  # without an outcome yet, and the questions not cancelled
        self._done: WeakSet[TurnHandle] = WeakSet()  # whose segments may still be read
        self._events: list[Event] = []  # for the next poll
        self._has_losses = False  # since turns were looked through
        self._pick_transport = transport if callable(transport) else lambda _: (transport, "")
        self._transport: Transport | None = None
        self._address = address
        self._overlap = overlap
        self._measures_costs = measures_costs and tp == 1
        self._cluster = cluster
        self._given = GivenMemoryStore()

    def start(self) -> RuntimeInfo:
        """Connect, start the actors and load their models, all at the same time.

        Raises ConfigError for an unreachable address, ClusterError if the actors find no place, ModelError, ActorError.
        """
        if self._cluster is None:
            self._cluster = connect_as_configured(self._address)
        why = self._bring_up()
        spec = self._fleet.spec
        return RuntimeInfo(
            bytes_per_token=spec.bytes_per_token,
            sent_bytes_per_token=coded_bytes((_SAMPLE_TOKENS,), self._in_use.codec, spec) // _SAMPLE_TOKENS,
            memory_limit_bytes=self._memory_limit(self._cluster),
            description=f"{self._fleet.describe()}, {why}",
            transfer_costs=measure_costs(self._fleet.replicas_of())
            if self._measures_costs and not self._fleet.plan.is_colocated
            else None,
            kv_spec=spec.of_shard(WHOLE),
        )

    def submit(self, work: TurnRequest, segments: Mapping[str, SegmentRef]) -> TurnHandle:
        """Queue the turn at one of the agent's replicas. Raises ActorError if an earlier run ended without them."""
        read = [segments[name] for name in work.segment_order()]
        replica = choose_replica(self._fleet.replicas_of()[work.agent], read, work.batch)
        if replica.state is ReplicaState.LOST:  # it would fail for ever: what is known to be lost is not replaced again
            raise ActorError(f"the actor of agent {work.agent} was not replaced: {replica.lost_because}")
        work = replace(self._given.store(work), submitted_at=time.time())
        segment, turn = replica.submit(work, segments, transport=self._in_use, overlap=self._overlap)
        replica.pending[turn] = None
        handle = TurnHandle(work.agent, segment, _Submitted(turn, replica), work.question_ids, work.is_last)
        self._pending[handle] = frozenset(work.question_ids)
        return handle

    def poll(self, timeout_seconds: float) -> list[Event]:
        """Return what has happened, see `Runtime.poll`. Raises like `start` where actors that died cannot be replaced.

        Checks the actors' health when that is due.
        """
        if self._health.is_due:
            self._health.check_health()
        timeout = 0.0 if self._events or self._has_losses else timeout_seconds
        while ready := self._wait(timeout):
            outcomes = [self._take_result(handle) for handle in ready]
            if all(outcomes):
                break
            timeout = 0.0  # with a turn that failed goes the news of those that made it fail
        if self._has_losses:
            self._find_lost_turns()
        events, self._events = self._events, []
        return events

    def cancel(self, handles: Sequence[TurnHandle], question_ids: Collection[str] | None = None) -> None:
        """Take queued turns back; a turn that runs goes on to its end and is forgotten."""
        for handle in handles:
            wanted = self._pending.get(handle, frozenset())
            if question_ids is not None and (rest := wanted.difference(question_ids)):
                self._pending[handle] = rest
                continue
            if self._pending.pop(handle, None) is None:
                continue
            submitted: _Submitted = handle.turn
            submitted.replica.pending.pop(submitted.turn, None)
            if submitted.replica.state is not ReplicaState.LOST:
                submitted.replica.cancel(submitted.turn)

    def free_segments(self, handles: Sequence[TurnHandle]) -> None:
        """Tell the actors that keep these segments that they will not be read any more. Bytes in the object store are
        freed with the last reference to them."""
        for handle in handles:
            self._done.discard(handle)
            if handle.segment is not None:
                handle.segment.release()

    def close(self) -> None:
        """End the actors, and the cluster if this runtime started it."""
        cluster, self._cluster = self._cluster, None
        self._pending.clear()
        self._events.clear()
        self._fleet.end()
        if cluster is not None:
            cluster.leave()

    def _note_event(self, event: Event) -> None:
        self._has_losses |= isinstance(event, ReplicaLost)
        self._events.append(event)

    def _wait(self, timeout_seconds: float) -> list[TurnHandle]:
        """Those pending turns that are over; at least one unless the time is up."""
        handles = {reference: handle for handle in self._pending for reference in handle.turn.turn.reports}
        if not handles:
            return []
        with cluster_errors():
            ready, rest = ray.wait(list(handles), num_returns=1, timeout=timeout_seconds)
            if ready and rest:
                ready += ray.wait(rest, num_returns=len(rest), timeout=0)[0]
        return list(dict.fromkeys(handles[reference] for reference in ready))

    def _take_result(self, handle: TurnHandle) -> bool:
        """Note the outcome of a turn that is over; False if it is no good one."""
        submitted: _Submitted = handle.turn
        turn, replica = submitted.turn, submitted.replica
        try:
            report = self._report(handle)
        except TurnLostError as error:
            self._events.append(
                TurnLost(handle, str(error), lacks_memory=error.lacks_memory, is_suspect=error.is_suspect)
            )
            return False
        except LatentMASError as error:
            self._events.append(TurnFailed(handle, without_frames(error)))
            return False
        finally:
            wanted = self._pending.pop(handle, frozenset())
            replica.pending.pop(turn, None)
        for place in turn.writes:
            place.final_at = time.monotonic()
        self._health.note_success(handle.agent)
        if handle.segment is not None:
            self._done.add(handle)
        self._events += events_of_result(handle, report, wanted)
        return True

    def _report(self, handle: TurnHandle) -> TurnResult:
        """The report of a turn that is over.

        Raises TurnError if the turn failed, TurnLostError if its actor died or memory that it reads is gone, a user's
        mistake as it is, and ActorError where the actor cannot be replaced.
        """
        submitted: _Submitted = handle.turn
        turn, replica = submitted.turn, submitted.replica
        try:
            report = replica.report(turn, shares_node=self._in_use.capabilities.shares_node)
        except ActorError as error:
            if replica.state is not ReplicaState.LOST:
                self._health.mark_dead(replica, handle.agent, str(error))
            raise _lost(handle) from error
        # The bytes lie in the object store, and may be asked for when this process has left the cluster.
        return replace(report, kept=tuple((header, body.copy()) for header, body in report.kept))

    def _find_lost_turns(self) -> None:
        """Note the turns that are not over and never will be, and those that are and whose segments went with an actor.
        Where a node is silent nothing else would ever come of them."""
        self._has_losses = False
        for handle in [one for one in self._pending if one.turn.replica.state is ReplicaState.LOST]:
            error = _lost(handle)
            self._pending.pop(handle)
            handle.turn.replica.pending.pop(handle.turn.turn, None)
            self._events.append(TurnLost(handle, str(error), is_suspect=error.is_suspect))
        for handle in [one for one in self._done if one.turn.replica.state is ReplicaState.LOST]:
            self._done.discard(handle)
            if handle.segment.holders:
                self._events.append(TurnLost(handle, f"its segment went with the actor of agent {handle.agent}"))

    @property
    def _in_use(self) -> Transport:
        assert self._transport is not None, "start() comes first"
        return self._transport

    def _bring_up(self) -> str:
        """Start all actors and have them use a transport; which one, and why."""
        assert self._cluster is not None
        self._cluster = self._fleet.start(self._cluster)
        transport, why = self._pick_transport(self._fleet.situation())
        self._transport = transport.within_one_actor() if self._fleet.plan.is_colocated else transport
        self._fleet.use(self._transport)
        self._health.report_ready(self._fleet.replicas)
        return f"transport {transport.name}" + (f" ({why})" if why else "")

    def _memory_limit(self, cluster: Cluster) -> int:
        """Segments are made where actors are, and nobody knows on which of their nodes: so each counts as the one whose
        object store is the smallest, and a node without actors not at all."""
        used = {one.node_id for one in self._fleet.loaded}
        smallest = min(cluster.store_bytes.get(node, 0.0) for node in used)
        return int(len(used) * smallest * _STORE_SHARE)

    def _start_over(self) -> None:
        """An agent has no actor left, and its node is gone: plan again with the nodes that are left."""
        self._health.mark_all_dead("all actors were placed anew after the loss of a node")
        assert self._cluster is not None
        for rest in reversed(range(MAX_STARTS)):
            self._fleet.end()
            self._cluster = Cluster.look(owned=self._cluster.owned)
            try:
                self._bring_up()
                return
            except InputError as error:
                raise ClusterError(f"a node was lost, and those that are left are too few: {error}") from error
            except ActorError as error:
                if not rest:
                    raise
                _log.info("the actors are placed anew once more: %s", error)


def _lost(handle: TurnHandle) -> TurnLostError:
    """What becomes of a turn whose replica is lost."""
    submitted: _Submitted = handle.turn
    replica = submitted.replica
    why = f"the actor of agent {handle.agent} died: {replica.lost_because}"
    return TurnLostError(why, lacks_memory=False, is_suspect=replica.suspect is submitted.turn)
