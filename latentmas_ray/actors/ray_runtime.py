"""The runtime on Ray: replicas of each agent are actors.

A segment goes from actor to actor as a reference; the driver never touches its bytes.
"""

import logging
import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from weakref import WeakSet

from latentmas_ray.actors.cluster import Cluster, connect_as_configured
from latentmas_ray.actors.elastic.follow import ClusterFollower, Growth
from latentmas_ray.actors.execute_turn import receive_kept
from latentmas_ray.actors.given_memory import GivenMemoryStore
from latentmas_ray.actors.health.lost_turns import take_lost_turns
from latentmas_ray.actors.health.monitor import HealthMonitor
from latentmas_ray.actors.manager import ReplicaManager
from latentmas_ray.actors.replicas.links import LinksByAgents
from latentmas_ray.actors.replicas.measure_costs import measure_costs_if_possible
from latentmas_ray.actors.replicas.ready import ReadyCalls
from latentmas_ray.actors.replicas.replica import Replica, ReplicaState, SegmentRef, Turn, ask_all_progress
from latentmas_ray.actors.replicas.request import ReplicaRequest
from latentmas_ray.actors.replicas.routing import choose_replica
from latentmas_ray.actors.text.text_replica import TextReplica
from latentmas_ray.authentication import Authenticator, RunKey
from latentmas_ray.config import ActorLink
from latentmas_ray.engine.timing.progress import TurnProgress
from latentmas_ray.engine.turn import OnTokens, TurnRequest, TurnResult
from latentmas_ray.errors import (
    ActorError,
    ClusterError,
    ConfigError,
    InputError,
    LatentMASError,
    LostActorError,
    TurnLostError,
)
from latentmas_ray.memory.codec import coded_bytes
from latentmas_ray.memory.spec import WHOLE
from latentmas_ray.runs.run_events import NodeLost, ReplicaLost, TurnPlace
from latentmas_ray.scheduler.protocol import (
    Event,
    QuestionDone,
    RuntimeInfo,
    TokensWritten,
    TurnFailed,
    TurnHandle,
    TurnLost,
    events_of_result,
    without_frames,
)
from latentmas_ray.transport import DeviceLayout, PerLink, Transport
from latentmas_ray.writing.events import TextGrown

_SAMPLE_TOKENS = 1000  # for the average bytes per token of a codec
MAX_STARTS = 3  # attempts to start all actors: a node may die meanwhile
PickTransport = Callable[[DeviceLayout], tuple[Transport, str]]
_log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Submitted:
    """A turn and the replica that executes it."""

    turn: Turn
    replica: Replica
    agent: str  # whose actors these are
    reported: set[str] = field(default_factory=set)  # the questions with a QuestionDone


class RayRuntime:
    """Executes turns on actors. A replica that dies is replaced; if its node is lost, the run continues with the
    agent's other replicas, or all are restarted on the nodes that are left. Replicas follow the cluster."""

    def __init__(
        self,
        request: ReplicaRequest,
        transport: Transport | PickTransport,
        *,
        address: str | None = None,
        cluster: Cluster | None = None,
        growth: Growth = Growth(),  # noqa: B008  frozen
        overlap: bool = True,
        measures_costs: bool = False,
        note: str = "",
    ) -> None:
        """Make a runtime; `start` connects and loads.

        request: the actors. Its key and `least` are set here.
        transport: or a function that picks one for the actors' devices and says why.
        cluster: an existing connection, instead of `address`; `close` ends it if it is owned.
        growth: how far replicas follow the cluster. overlap: send a prompt's chunk while its agent still thinks.
        measures_costs: `start` measures the costs for the choice between KV and recompute inputs.
        note: a further fact for the description, in the log.
        """
        self._detached = request.detached
        key = RunKey.generate() if self._detached is None else self._detached.key
        self._manager = ReplicaManager(replace(request, key=key, least=growth.least))
        self._health = HealthMonitor(self._manager, self._restart_all, request.turn_seconds, self._record_event)
        self._follower = ClusterFollower(self._manager, self._health, growth, self._record_event, self._has_segments)
        self._pending: dict[TurnHandle, frozenset[str]] = {}  # not finished; and its questions that are not cancelled
        self._done: WeakSet[TurnHandle] = WeakSet()  # finished turns whose segments may still be read
        self._events: list[Event] = []  # for the next poll
        self._has_losses = False  # since lost turns were looked for
        self._ended_by: LatentMASError | None = None  # the next poll raises it
        self._ready, self._links = ReadyCalls(), LinksByAgents()
        self._pick_transport = transport if callable(transport) else lambda _: (transport, "")
        self._transport: Transport | None = None  # until `start`
        self._address, self._cluster, self._overlap, self._note = address, cluster, overlap, note
        self._measures_costs = measures_costs and request.tp == 1
        self._given_memory, self._authenticator = GivenMemoryStore(key), Authenticator(key)

    def start(self) -> RuntimeInfo:
        """Connect, start the actors and load their models, all at the same time.

        Raises ConfigError for an unreachable address, ClusterError if the actors cannot be placed, ModelError,
        ActorError.
        """
        if self._cluster is None:
            self._cluster = connect_as_configured(self._address)
        if self._detached is not None:
            self._detached.start_renewing(lambda: [actor for one in self._manager.replicas for actor in one.actors])
        why = self._start_actors()
        specs = {agent: spec.of_shard(WHOLE) for agent, spec in self._manager.specs().items()}
        spec = max(specs.values(), key=lambda one: one.bytes_per_token)
        layout = self._manager.request.planner.layout
        measures_costs = self._measures_costs and not self._manager.plan.is_colocated
        about = (layout.line if layout else "", self._manager.describe(), why, self._note)
        info = RuntimeInfo(
            bytes_per_token=spec.bytes_per_token,
            state_bytes=max(one.state_bytes for one in specs.values()),
            sent_bytes_per_token=coded_bytes((_SAMPLE_TOKENS,), self._current_transport.codec, spec) // _SAMPLE_TOKENS,
            memory_limit_bytes=self._cluster.bytes_in_flight({one.node_id for one in self._manager.loaded}),
            description=", ".join(filter(None, about)),
            transfer_costs=measure_costs_if_possible(self._manager.replicas_of()) if measures_costs else None,
            kv_specs=specs,
            writes_at_once=self._manager.writes_at_once(),
            engines=self._manager.engines,
            layout=layout,
        )
        return self._manager.request.complete(info)

    def set_stand_ins(self, stand_ins: Mapping[tuple[str, str], str], info: RuntimeInfo) -> RuntimeInfo:
        """See `TakesStandIns`."""
        self._manager.request = replace(self._manager.request, stand_ins=stand_ins)
        return self._manager.request.complete(info)

    def submit(
        self, work: TurnRequest, segments: Mapping[str, SegmentRef], on_tokens: OnTokens | None = None
    ) -> TurnHandle:
        """Queue the turn at one of the agent's replicas. Raises ActorError if that was lost and not replaced."""
        if self._ended_by is not None:
            raise self._ended_by
        agent = self._manager.request.actors_of(work.agent, work.thinks)
        replica = choose_replica(self._manager.replicas_of()[agent], list(segments.values()), work.batch)
        if replica.state is ReplicaState.LOST:  # it would never be replaced
            raise ActorError(f"the actor of agent {agent} was not replaced: {replica.lost_because}")
        work = replace(
            self._given_memory.store(work),
            submitted_at=time.time(),
            segment_id=secrets.token_hex(8),
            read_ids={name: segment.segment_id for name, segment in segments.items()},
            sent_over=self._links_from(replica, work.read_by),
        )
        segment, turn = replica.submit(work, segments, transport=self._current_transport, overlap=self._overlap)
        place = TurnPlace(replica.name, replica.nodes, work.submitted_at)
        own = _Submitted(turn, replica, agent)
        handle = TurnHandle(work.agent, segment, own, work.question_ids, work.is_last, place)
        replica.pending[turn] = handle
        self._pending[handle] = frozenset(work.question_ids)
        self._ready.watch(handle, turn.results, replica)
        return handle

    def poll(self, timeout_seconds: float) -> list[Event]:
        """Check the actors' health if that is due, and return the events since the last call; see `Runtime.poll`.

        Raises like `start` if actors that died cannot be replaced, once it has returned what happened before.
        """
        if self._ended_by is None:
            try:
                return self._poll(timeout_seconds)
            except LatentMASError as error:
                if not self._events:
                    raise
                self._ended_by = without_frames(error)
                return self._take_events()
        ended_by, self._ended_by = self._ended_by, None
        raise ended_by

    def _poll(self, timeout_seconds: float) -> list[Event]:
        if self._health.is_due:
            self._health.check_health()
        self._follower.update()
        timeout = 0.0 if self._events or self._has_losses else timeout_seconds
        while ready := self._wait(timeout):
            outcomes = [self._record_result(handle) for handle in ready]
            if all(outcomes):
                break
            timeout = 0.0  # also return the failures that made this turn fail
        if not self._events:  # a turn that ended between two polls does not hang; and nothing is lost if this raises
            self._health.check_hangs()
        if self._has_losses:
            self._has_losses = False
            self._events += take_lost_turns(self._pending, self._done, self._manager.replicas, self._health.lost_nodes)
        return self._take_events()

    def _take_events(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def cancel(self, handles: Sequence[TurnHandle], question_ids: Collection[str] | None = None) -> None:
        """Cancel queued turns; a turn that is running continues to its end and its result is dropped. Of texts that are
        written question by question, the questions end at once."""
        for handle in handles:
            submitted: _Submitted = handle.turn
            wanted = self._pending.get(handle, frozenset())
            if question_ids is not None and (remaining := wanted.difference(question_ids)):
                self._pending[handle] = remaining
                if submitted.replica.state is not ReplicaState.LOST and remaining != wanted:
                    submitted.replica.cancel_questions(submitted.turn, wanted.intersection(question_ids))
                continue
            if self._pending.pop(handle, None) is None:
                continue
            submitted.replica.pending.pop(submitted.turn, None)
            if submitted.replica.state is not ReplicaState.LOST:
                submitted.replica.cancel(submitted.turn)

    def free_segments(self, handles: Sequence[TurnHandle]) -> None:
        """Free these turns' segments at the actors that hold them. Bytes in the object store are freed with the last
        reference to them."""
        for handle in handles:
            self._done.discard(handle)
            if handle.segment is not None:
                handle.segment.release()

    def running_turns(self) -> list[TurnProgress]:
        """Return how far the turns are that run now; a replica that does not answer at once is left out. Any thread may
        call this."""
        return ask_all_progress([one for one in self._manager.replicas if one.pending and one.is_up])

    def close(self) -> None:
        """Shut down the actors, and the cluster if this runtime started it."""
        cluster, self._cluster = self._cluster, None
        self._pending.clear()
        self._events.clear()
        self._follower.close()
        self._health.close()
        self._manager.shut_down()
        if self._detached is not None:
            self._detached.close()
        if cluster is not None:
            cluster.disconnect()

    def _record_event(self, event: Event) -> None:
        self._has_losses |= isinstance(event, ReplicaLost | NodeLost)
        self._events.append(event)

    def _has_segments(self, replica: Replica) -> bool:
        """Whether a segment of one of its turns may still be read."""
        return any(handle.turn.replica is replica for handle in self._done)

    def _wait(self, timeout_seconds: float) -> list[TurnHandle]:
        """Wait for a pending turn to end, or for a report of questions; return all turns that are over (none after the
        timeout)."""
        deadline = time.monotonic() + timeout_seconds
        while self._pending:
            replicas, handles = self._ready.take(max(0.0, deadline - time.monotonic()))
            for replica in replicas:
                self._record_report(replica)
            over = [handle for handle in handles if handle in self._pending]  # not cancelled
            if over or self._events or not (replicas or handles):
                return over
        return []

    def _record_report(self, replica: TextReplica) -> None:
        """Queue the events of a report of questions that are still wanted."""
        for turn, event in replica.take_report():
            handle = replica.pending[turn]
            if handle is None or event.question_id not in self._pending.get(handle, ()):
                continue
            if isinstance(event, TextGrown):
                self._events.append(TokensWritten(handle, event.question_id, event.num_tokens, event.new))
                continue
            result = replica.with_links(turn, event.result)
            self._health.record_success(handle.turn.agent)
            handle.turn.reported.add(event.question_id)
            written = [TokensWritten(handle, event.question_id, result.total_written)] * len(result.output_token_ids)
            self._events += [*written, QuestionDone(handle, event.question_id, result)]

    def _record_result(self, handle: TurnHandle) -> bool:
        """Queue the events of a turn that is over; return False if it failed or was lost."""
        submitted: _Submitted = handle.turn
        turn, replica = submitted.turn, submitted.replica
        try:
            result = self._get_result(handle)
        except TurnLostError as error:
            lacks, is_suspect = error.lacks_memory, error.is_suspect
            self._events.append(TurnLost(handle, str(error), lacks_memory=lacks, is_suspect=is_suspect))
            return False
        except LatentMASError as error:
            self._events.append(TurnFailed(handle, without_frames(error)))
            return False
        finally:
            wanted = self._pending.pop(handle, frozenset())
            replica.pending.pop(turn, None)
        for location in turn.writes:
            location.final_at = time.monotonic()
        self._health.record_success(submitted.agent)
        if handle.segment is not None:
            self._done.add(handle)
        failed = {name: why for name, why in result.failed.items() if name in wanted}  # not those that were cancelled
        self._events += events_of_result(handle, replace(result, failed=failed), wanted - submitted.reported)
        return True

    def _get_result(self, handle: TurnHandle) -> TurnResult:
        """Return the result of a turn that is over.

        Raises TurnError if the turn failed, TurnLostError if its actor died or memory that it reads is lost, InputError
        kinds as they were raised, and ActorError if the actor cannot be replaced.
        """
        submitted: _Submitted = handle.turn
        turn, replica = submitted.turn, submitted.replica
        try:
            result = replica.result(turn)
        except ActorError as error:
            if replica.state is not ReplicaState.LOST:
                self._health.mark_dead(replica, submitted.agent, str(error))
            raise replica.lost_error(turn, handle.agent) from error
        if not result.kept:
            return result
        # Copies: the bytes lie in the object store, and may be read after this process has left the cluster.
        return replace(result, kept=receive_kept(result.kept, self._authenticator, handle.segment.segment_id))

    def _links_from(self, replica: Replica, agents: Sequence[str]) -> frozenset[ActorLink] | None:
        """Return the links over which a segment may be read; None if that makes no difference."""
        if not isinstance(self._current_transport, PerLink):
            return None
        return self._links.links_to(replica, self._manager.request.agents_for(agents), self._manager.replicas_of())

    @property
    def _current_transport(self) -> Transport:
        assert self._transport is not None, "start() comes first"
        return self._transport

    def _start_replicas(self) -> str:
        """Start all replicas and set their transport; return the transport's name and why it was picked."""
        assert self._cluster is not None
        self._health.watch(self._cluster)
        self._cluster = self._manager.start(self._cluster)
        transport, why = self._choose_transport(may_move=len(self._cluster.nodes) > 1 or self._follower.may_grow)
        self._transport = transport.within_one_actor() if self._manager.plan.is_colocated else transport
        self._manager.use_transport(self._transport)
        self._health.report_ready([replica for replica in self._manager.replicas if replica.is_up])
        return f"transport {transport.name}" + (f" ({why})" if why else "")

    def _choose_transport(self, *, may_move: bool) -> tuple[Transport, str]:
        """Pick the transport, with `may_move` one that reaches other nodes if what is asked for does."""
        if may_move:
            with suppress(ConfigError):
                return self._pick_transport(self._manager.device_layout(may_move=True))
        return self._pick_transport(self._manager.device_layout())

    def _restart_all(self) -> None:
        """Plan and start all replicas again on the nodes that are left: an agent has lost its last replica."""
        self._health.mark_all_dead("all actors were restarted after the loss of a node")
        self._start_actors(again=True)

    def _start_actors(self, *, again: bool = False) -> str:
        """Start all replicas like `_start_replicas`, and once more if an actor dies before all are up: a node may die
        meanwhile. With `again` they were up before."""
        assert self._cluster is not None
        for attempts_left in reversed(range(MAX_STARTS)):
            if again:
                self._manager.shut_down()
                self._follower.reset()
                self._cluster = replace(self._cluster, without=self._health.gone_nodes).inspect_again()
            try:
                return self._start_replicas()
            except InputError as error:
                if not again:
                    raise
                raise ClusterError(f"a node was lost, and those that are left are too few: {error}") from error
            except ActorError as error:
                if not attempts_left or not (again or isinstance(error, LostActorError)):
                    raise
                _log.warning("the actors are started once more: %s", error)
            again = True
        raise AssertionError("the last attempt returns or raises")
