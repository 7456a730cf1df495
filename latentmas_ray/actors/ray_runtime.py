"""One Ray actor per agent and replica. References are chained: a segment goes from actor to actor as a reference,
and the driver never touches its bytes."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, count

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayError, RayTaskError

from latentmas_ray.actors.cluster import Cluster, connect
from latentmas_ray.actors.fleet import NO_MEMORY, Fleet, Replica, reason
from latentmas_ray.actors.measure import measure_costs
from latentmas_ray.actors.transfers import Whereabouts
from latentmas_ray.actors.turn import Runner
from latentmas_ray.config import PlacementName, replicas_by_agent
from latentmas_ray.driver.protocol import RuntimeInfo, Ticket
from latentmas_ray.engine.turn import TurnReport, TurnWork
from latentmas_ray.env import read_environment
from latentmas_ray.errors import ActorError, ClusterError, InputError, TurnError
from latentmas_ray.memory.codec import coded_bytes
from latentmas_ray.transport import Situation, Transport

_STORE_SHARE = 0.5  # of the object store may be held by segments in flight, so that nothing spills
_SAMPLE_TOKENS = 1000  # of which a codec's bytes per token are counted
PickTransport = Callable[[Situation], tuple[Transport, str]]
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class PackedSegment:
    """References to the parcels of a segment, in order, and where its bytes are."""

    parcels: tuple[ray.ObjectRef, ...]
    whereabouts: Whereabouts
    keepers: list[Replica] = field(default_factory=list)  # besides the producer: readers that may keep a copy


@dataclass(frozen=True, eq=False)
class _Submitted:
    """A turn at its actor. Holds no reference to what it reads, or that would live as long as the turn's ticket."""

    report: ray.ObjectRef
    replica: Replica
    reads: Mapping[str, Whereabouts]
    begun: ray.ObjectRef | None = None
    number: int = 0


class RayRuntime:
    """Carries out turns on actors. Every agent's turns go to its replicas in turn, batch by batch."""

    def __init__(
        self,
        agents: Sequence[str],
        make_runner: Callable[[], Runner],
        transport: Transport | PickTransport,
        *,
        address: str | None = None,
        replicas: int | Mapping[str, int] = 1,
        placement: PlacementName = "auto",
        busy_agents: int = 1,
        uses_gpus: bool = True,
        overlap: bool = True,
        measures_costs: bool = False,
    ) -> None:
        """`busy_agents` is how many agents can work at the same time; on CPUs it decides the threads of each. Without
        `uses_gpus` no GPU is asked for. With `overlap` the memory of a prompt travels while its agent still thinks.
        `transport` may be a function that picks one, and says why, once it is known where the actors are.
        `measures_costs` has `start` measure what the choice between KV and recipes rests on.
        """
        self._agents = tuple(agents)
        self._make_runner = make_runner
        self._pick_transport = transport if callable(transport) else lambda _: (transport, "")
        self._transport: Transport | None = None
        self._address = address
        self._replicas = replicas_by_agent(replicas, self._agents)
        self._placement = placement
        self._busy_agents = busy_agents
        self._uses_gpus = uses_gpus
        self._overlap = overlap
        self._measures_costs = measures_costs
        self._cluster: Cluster | None = None
        self._fleet: Fleet | None = None
        self._is_colocated = False  # all agents have the same actors
        self._replicas_of: dict[str, list[Replica]] = {}
        self._numbers = count(1)

    def start(self) -> RuntimeInfo:
        """Connect, start the actors and load their models, all at the same time.

        Raises ConfigError for an unreachable address, ClusterError if the actors find no place, ModelError, ActorError.
        """
        env = read_environment()
        if self._address is None and env.ray_address is not None:
            self._cluster = connect(env.ray_address, field="RAY_ADDRESS")
        else:
            self._cluster = connect(self._address)
        fleet = self._fleet = self._make_fleet(env.torch_threads)
        self._cluster = fleet.start(self._cluster)
        self._replicas_of = fleet.replicas_of()
        self._is_colocated = fleet.plan.is_colocated
        transport, why = self._pick_transport(fleet.situation())
        self._transport = transport.within_one_actor() if self._is_colocated else transport
        fleet.use(self._transport)
        spec = fleet.loaded[0].spec
        told = f"transport {transport.name}" + (f" ({why})" if why else "")
        return RuntimeInfo(
            bytes_per_token=spec.bytes_per_token,
            sent_bytes_per_token=coded_bytes((_SAMPLE_TOKENS,), self._transport.codec, spec) // _SAMPLE_TOKENS,
            memory_limit_bytes=int(self._cluster.object_store_bytes * _STORE_SHARE),
            description=f"{fleet.describe()}, {told}",
            handover_costs=measure_costs(self._replicas_of)
            if self._measures_costs and not self._is_colocated
            else None,
        )

    def submit(self, work: TurnWork, segments: Mapping[str, PackedSegment]) -> Ticket:
        """Queue the turn at one of the agent's replicas."""
        replicas = self._replicas_of[work.agent]
        replica = replicas[work.batch % len(replicas)]
        read = [segments[name] for name in work.segment_order()]
        remote = [segment for segment in read if segment.whereabouts.source_node != replica.node_id]
        if remote:
            references = list(chain(*(segment.parcels for segment in read)))
            replica.actor.fetch.options(concurrency_group="fetch").remote(references)
        for segment in remote if self._readers_keep else ():
            segment.keepers.append(replica)
        # Ray waits for positional arguments, and brings them here, before it calls the method; the later parcels, in
        # a list, are the turn's own to wait for.
        work = replace(work, submitted_at=time.time())
        arguments = (work, [segment.parcels[1:] for segment in read], *(segment.parcels[0] for segment in read))
        reads = {name: segments[name].whereabouts for name in work.segment_order()}
        whereabouts = Whereabouts(replica.node_id, stays=self._is_colocated)
        # Colocated agents take turns: nobody could read a prompt's memory before its agent has finished.
        if self._overlap and work.leaves_early and not self._is_colocated:
            number = next(self._numbers)
            begin = replica.actor.begin_turn.options(num_returns=2, concurrency_group="turns")
            first, begun = begin.remote(number, *arguments)
            end = replica.actor.end_turn.options(num_returns=2, concurrency_group="ends")
            last, report = end.remote(begun)
            submitted = _Submitted(report, replica, reads, begun, number)
            return Ticket(work.agent, PackedSegment((first, last), whereabouts), submitted)
        run = replica.actor.run_turn.options(num_returns=2, concurrency_group="turns")
        segment, report = run.remote(*arguments)
        packed = PackedSegment((segment,), whereabouts) if work.thinks == "latent" else None
        return Ticket(work.agent, packed, _Submitted(report, replica, reads))

    def wait(self, tickets: Sequence[Ticket], timeout_seconds: float) -> list[Ticket]:
        """Those that have finished; at least one unless the time is up."""
        by_reference = {ticket.report.report: ticket for ticket in tickets}
        if not by_reference:
            return []
        try:
            ready, rest = ray.wait(list(by_reference), num_returns=1, timeout=timeout_seconds)
            if ready and rest:
                ready += ray.wait(rest, num_returns=len(rest), timeout=0)[0]
        except RayError as error:
            raise ClusterError(f"the cluster does not answer: {error}") from error
        return [by_reference[reference] for reference in ready]

    def report(self, ticket: Ticket) -> TurnReport:
        """The report of a finished turn.

        Raises TurnError if the turn failed, ActorError if its actor died; a user's mistake is raised as it is.
        """
        submitted: _Submitted = ticket.report
        try:
            report: TurnReport = ray.get(submitted.report)
        except RayTaskError as error:
            cause = error.cause
            if isinstance(cause, InputError):
                raise cause from error
            raise TurnError(reason(cause or error)) from error
        except RayActorError as error:
            raise ActorError(f"the actor of agent {ticket.agent} died: {reason(error)}") from error
        except OutOfMemoryError as error:
            raise ActorError(f"the actor of agent {ticket.agent} was ended: {NO_MEMORY}") from error
        except RayError as error:
            raise TurnError(reason(error)) from error
        reads = tuple(
            submitted.reads[read.source].account(
                read, reader_node=submitted.replica.node_id, shares_node=self._shares_node
            )
            for read in report.reads
        )
        return replace(report, reads=reads)

    @property
    def _shares_node(self) -> bool:
        return self._transport is None or self._transport.traits.shares_node

    @property
    def _readers_keep(self) -> bool:
        return self._transport is not None and self._transport.traits.readers_keep

    def cancel(self, tickets: Sequence[Ticket]) -> None:
        """Take queued turns back; a turn that runs goes on to its end and is forgotten."""
        for ticket in tickets:
            submitted: _Submitted = ticket.report
            for reference in (submitted.report, submitted.begun):
                if reference is not None:
                    self._cancel(ticket.agent, reference)
            if submitted.begun is not None:
                submitted.replica.actor.forget_turn.options(concurrency_group="side").remote(submitted.number)

    def _cancel(self, agent: str, reference: ray.ObjectRef) -> None:
        try:
            ray.cancel(reference, force=False)
        except (RayError, ValueError, TypeError) as error:
            _log.debug("turn of %s was not cancelled: %s", agent, error)

    def release(self, tickets: Sequence[Ticket]) -> None:
        """Tell the actors that nobody will read the segments of these turns any more, if they keep them."""
        needs_producer = self._transport is not None and not self._transport.traits.survives_producer
        for ticket in tickets if needs_producer else ():
            if ticket.segment is not None:
                for holder in {ticket.report.replica, *ticket.segment.keepers}:
                    release = holder.actor.release.options(concurrency_group="side")
                    for parcel in ticket.segment.parcels:  # one by one: what failed to come must not keep what came
                        release.remote(parcel)

    def close(self) -> None:
        """End the actors, and the cluster if this runtime started it."""
        cluster, self._cluster = self._cluster, None
        fleet, self._fleet, self._replicas_of = self._fleet, None, {}
        if fleet is not None:
            fleet.end()
        if cluster is not None:
            cluster.leave()

    def _make_fleet(self, num_threads: int | None) -> Fleet:
        return Fleet(
            self._agents,
            self._replicas,
            self._make_runner,
            placement=self._placement,
            busy_agents=self._busy_agents,
            uses_gpus=self._uses_gpus,
            num_threads=num_threads,
        )
