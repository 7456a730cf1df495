"""Replicas of every agent on Ray. References are chained: a segment goes from actor to actor as a reference, and the
driver never touches its bytes."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import ray
from ray.exceptions import RayError

from latentmas_ray.actors.cluster import Cluster, connect_as_configured
from latentmas_ray.actors.execute_turn import Runner
from latentmas_ray.actors.given_memory import GivenMemoryStore
from latentmas_ray.actors.health import HealthMonitor
from latentmas_ray.actors.manager import ReplicaManager, ReplicaRequest
from latentmas_ray.actors.measure_links import measure_costs
from latentmas_ray.actors.replicas.replica import Replica, SegmentRef, Turn
from latentmas_ray.actors.replicas.routing import choose_replica
from latentmas_ray.config import PlacementName, replicas_by_agent
from latentmas_ray.engine.turn import TurnRequest, TurnResult
from latentmas_ray.env import read_environment
from latentmas_ray.errors import ActorError, ClusterError, InputError, TurnLostError
from latentmas_ray.memory.codec import coded_bytes
from latentmas_ray.memory.spec import WHOLE
from latentmas_ray.scheduler.protocol import RuntimeInfo, TurnHandle
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
    agent: str
    report: TurnResult | None = None  # once it was asked for: whether a transfer moved bytes, is told only once


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
        `measures_costs` has `start` measure what the choice between KV and recompute inputs rests on. With `tp` above 1 every
        replica is so many actors, and `make_runner(ranks=…)` loads one rank's part of the model. A turn that takes
        longer than `turn_seconds`, with nothing to wait for, is taken to hang, and its replica is ended. `cluster` is a
        connection that there is already, in place of one to `address`; `close` ends it if it is owned.
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
        self._upkeep = HealthMonitor(self._fleet, self._start_over, turn_seconds)
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
            handover_costs=measure_costs(self._fleet.replicas_of())
            if self._measures_costs and not self._fleet.plan.is_colocated
            else None,
            kv_spec=spec.of_shard(WHOLE),
        )

    def submit(self, work: TurnRequest, segments: Mapping[str, SegmentRef]) -> TurnHandle:
        """Queue the turn at one of the agent's replicas. Raises ActorError if an earlier run ended without them."""
        read = [segments[name] for name in work.segment_order()]
        replica = choose_replica(self._fleet.replicas_of()[work.agent], read, work.batch)
        if replica.lost is not None:  # it would fail for ever, for nobody replaces what is known to be lost
            raise ActorError(f"the actor of agent {work.agent} was not replaced: {replica.lost}")
        work = replace(self._given.store(work), submitted_at=time.time())
        segment, turn = replica.submit(work, segments, transport=self._in_use, overlap=self._overlap)
        replica.pending[turn] = None
        return TurnHandle(work.agent, segment, _Submitted(turn, replica, work.agent))

    def wait(self, tickets: Sequence[TurnHandle], timeout_seconds: float) -> list[TurnHandle]:
        """Those that have finished, or never will; at least one unless the time is up.

        Raises like `start` where actors that died cannot be replaced.
        """
        self._upkeep.check_health()
        lost = [ticket for ticket in tickets if ticket.report.replica.lost]
        by_reference = {reference: ticket for ticket in tickets for reference in ticket.report.turn.reports}
        if not by_reference:
            return lost
        try:
            ready, rest = ray.wait(list(by_reference), num_returns=1, timeout=0 if lost else timeout_seconds)
            if ready and rest:
                ready += ray.wait(rest, num_returns=len(rest), timeout=0)[0]
        except RayError as error:
            raise ClusterError(f"the cluster does not answer: {error}") from error
        return list(dict.fromkeys([*(by_reference[reference] for reference in ready), *lost]))

    def report(self, ticket: TurnHandle) -> TurnResult:
        """The report of a finished turn.

        Raises TurnError if the turn failed, TurnLostError if its actor died or memory that it reads is gone; a user's
        mistake is raised as it is.
        """
        submitted: _Submitted = ticket.report
        if submitted.report is not None:
            return submitted.report
        turn, replica = submitted.turn, submitted.replica
        try:
            if replica.lost is not None and not ray.wait(list(turn.reports), timeout=0)[0]:
                raise ActorError(replica.lost)  # where its node is silent, nothing would ever come
            report = replica.report(turn, shares_node=self._in_use.capabilities.shares_node)
            # The bytes lie in the object store, and may be asked for when this process has left the cluster.
            kept = tuple((header, body.copy()) for header, body in report.kept)
            report = submitted.report = replace(report, kept=kept)
        except ActorError as error:
            if replica.lost is None:
                self._upkeep.lose(replica, submitted.agent, str(error))
            is_suspect = replica.suspect is turn
            raise TurnLostError(
                f"the actor of agent {ticket.agent} died: {replica.lost}", lacks_memory=False, is_suspect=is_suspect
            ) from error
        finally:
            replica.pending.pop(turn, None)
        for place in turn.writes:
            place.final_at = time.monotonic()
        self._upkeep.note_success(submitted.agent)
        return report

    def is_lost(self, ticket: TurnHandle) -> bool:
        """Whether a turn will never finish, or has, and its segment is gone with the actor that held it."""
        submitted: _Submitted = ticket.report
        if submitted.replica.lost is None:
            return False
        is_reported = all(place.final_at is not None for place in submitted.turn.writes)
        return not is_reported or (ticket.segment is not None and bool(ticket.segment.holders))

    def cancel(self, tickets: Sequence[TurnHandle]) -> None:
        """Take queued turns back; a turn that runs goes on to its end and is forgotten."""
        for ticket in tickets:
            submitted: _Submitted = ticket.report
            submitted.replica.pending.pop(submitted.turn, None)
            if submitted.replica.lost is None:
                submitted.replica.cancel(submitted.turn)

    def release(self, tickets: Sequence[TurnHandle]) -> None:
        """Tell the actors that nobody will read the segments of these turns any more, if they keep them."""
        for ticket in tickets:
            if ticket.segment is not None:
                ticket.segment.release()

    def close(self) -> None:
        """End the actors, and the cluster if this runtime started it."""
        cluster, self._cluster = self._cluster, None
        self._fleet.end()
        if cluster is not None:
            cluster.leave()

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
        return f"transport {transport.name}" + (f" ({why})" if why else "")

    def _memory_limit(self, cluster: Cluster) -> int:
        """Segments are made where actors are, and nobody knows on which of their nodes: so each counts as the one whose
        object store is the smallest, and a node without actors not at all."""
        used = {one.node_id for one in self._fleet.loaded}
        smallest = min(cluster.store_bytes.get(node, 0.0) for node in used)
        return int(len(used) * smallest * _STORE_SHARE)

    def _start_over(self) -> None:
        """An agent has no actor left, and its node is gone: plan again with the nodes that are left."""
        for replica in {replica for replicas in self._fleet.replicas_of().values() for replica in replicas}:
            replica.lose("all actors were placed anew after the loss of a node", is_at_fault=False)
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
