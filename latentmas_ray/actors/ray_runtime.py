"""One Ray actor per agent and replica. References are chained: a segment goes from actor to actor as a reference,
and the driver never touches its bytes."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, count
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, OutOfMemoryError, RayActorError, RayError, RayTaskError

from latentmas_ray.actors.agent_actor import GROUPS, AgentActor, Loaded
from latentmas_ray.actors.cluster import Cluster, connect
from latentmas_ray.actors.measure import measure_costs
from latentmas_ray.actors.transfers import Whereabouts
from latentmas_ray.actors.turn import Runner
from latentmas_ray.config import replicas_by_agent
from latentmas_ray.driver.protocol import RuntimeInfo, Ticket
from latentmas_ray.engine.turn import TurnReport, TurnWork
from latentmas_ray.env import read_environment
from latentmas_ray.errors import ActorError, ClusterError, InputError, TurnError
from latentmas_ray.memory.codec import coded_bytes
from latentmas_ray.placement.shares import ActorResources, share_out
from latentmas_ray.transport import Situation, Transport

START_SECONDS = 1800.0  # to schedule all actors and load their models
_LOOK_SECONDS = 5.0  # how often a start that lasts looks after the nodes
_STORE_SHARE = 0.5  # of the object store may be held by segments in flight, so that nothing spills
_SAMPLE_TOKENS = 1000  # of which a codec's bytes per token are counted
_NO_MEMORY = (
    "its machine ran out of memory; use a smaller batch_size, memory_in_flight or max_new_tokens, or more machines"
)
PickTransport = Callable[[Situation], tuple[Transport, str]]
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Replica:
    """One actor of an agent, and the node it lives on."""

    actor: Any
    node_id: str


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
        self._busy_agents = busy_agents
        self._uses_gpus = uses_gpus
        self._overlap = overlap
        self._measures_costs = measures_costs
        self._cluster: Cluster | None = None
        self._actors: dict[str, list[Any]] = {}
        self._replicas_of: dict[str, list[Replica]] = {}
        self._numbers = count(1)

    def start(self) -> RuntimeInfo:
        """Connect, start the actors and load their models, all at the same time.

        Raises ConfigError for an unreachable address, ClusterError if the actors find no place, ModelError, ActorError.
        """
        env = read_environment()
        if self._address is None and env.ray_address is not None:
            cluster = connect(env.ray_address, field="RAY_ADDRESS")
        else:
            cluster = connect(self._address)
        while True:
            self._cluster = cluster
            resources = share_out(
                num_actors=sum(self._replicas.values()),
                nodes=cluster.nodes if self._uses_gpus else [replace(node, num_gpus=0.0) for node in cluster.nodes],
                busy_actors=self._busy_agents * max(self._replicas.values()),
            )
            num_threads = env.torch_threads or resources.num_threads
            self._make_actors(resources, num_threads)
            if (loaded := self._load(cluster)) is not None:
                break
            # A share of nodes of which one is no more may be too large for the others. Ray tells of a node's death a
            # minute late, so a run that is resumed after one comes here.
            self._end_actors()
            cluster = Cluster.look(owned=cluster.owned)
        spec = loaded[0].spec
        for one in loaded[1:]:
            spec.check_same(one.spec)
        nodes = iter(one.node_id for one in loaded)
        self._replicas_of = {
            agent: [Replica(actor, next(nodes)) for actor in actors] for agent, actors in self._actors.items()
        }
        self._transport, why = self._pick_transport(_situation(loaded))
        self._tell_actors(self._transport)
        transport = f"transport {self._transport.name}" + (f" ({why})" if why else "")
        return RuntimeInfo(
            bytes_per_token=spec.bytes_per_token,
            sent_bytes_per_token=coded_bytes((_SAMPLE_TOKENS,), self._transport.codec, spec) // _SAMPLE_TOKENS,
            memory_limit_bytes=int(cluster.object_store_bytes * _STORE_SHARE),
            description=self._describe(cluster, resources, num_threads, [one.device for one in loaded])
            + f", {transport}",
            handover_costs=measure_costs(self._replicas_of) if self._measures_costs else None,
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
        whereabouts = Whereabouts(replica.node_id)
        if self._overlap and work.leaves_early:
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
            raise TurnError(_reason(cause or error)) from error
        except RayActorError as error:
            raise ActorError(f"the actor of agent {ticket.agent} died: {_reason(error)}") from error
        except OutOfMemoryError as error:
            raise ActorError(f"the actor of agent {ticket.agent} was ended: {_NO_MEMORY}") from error
        except RayError as error:
            raise TurnError(_reason(error)) from error
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
        if cluster is not None:
            self._end_actors()
            cluster.leave()

    def _make_actors(self, resources: ActorResources, num_threads: int) -> None:
        # In order, Ray would let a turn that waits for its segment hold up those behind it, and an actor would wait
        # half a minute for a turn that was cancelled meanwhile and then lose its whole queue.
        remote = ray.remote(
            num_gpus=resources.num_gpus,
            num_cpus=resources.num_cpus,
            allow_out_of_order_execution=True,
            concurrency_groups=GROUPS,
        )(AgentActor)
        for agent in self._agents:
            self._actors[agent] = [remote.remote(self._make_runner, num_threads) for _ in range(self._replicas[agent])]

    def _end_actors(self) -> None:
        actors, self._actors, self._replicas_of = self._actors, {}, {}
        for actor in (actor for replicas in actors.values() for actor in replicas):
            try:
                ray.kill(actor)
            except (RayError, ValueError) as error:
                _log.debug("actor was not ended: %s", error)

    def _load(self, cluster: Cluster) -> list[Loaded] | None:
        """What every actor has to say of its model; None if a node died before all were ready."""
        names = [agent for agent in self._agents for _ in range(self._replicas[agent])]
        references = [
            actor.load.options(concurrency_group="turns").remote()
            for replicas in self._actors.values()
            for actor in replicas
        ]
        deadline = time.monotonic() + START_SECONDS
        try:
            while True:
                try:
                    loaded: list[Loaded] = ray.get(references, timeout=_LOOK_SECONDS)
                    return loaded
                except GetTimeoutError:
                    if cluster.has_lost_nodes():
                        return None
                    if time.monotonic() > deadline:
                        raise
        except RayTaskError as error:
            if isinstance(error.cause, InputError):
                raise error.cause from error
            raise ActorError(f"an actor could not load its model: {_reason(error.cause or error)}") from error
        except GetTimeoutError as error:
            ready = set(ray.wait(references, num_returns=len(references), timeout=0)[0])
            late = [name for name, reference in zip(names, references, strict=True) if reference not in ready]
            raise ClusterError(
                f"after {START_SECONDS:.0f} s no place was found for the actors of {', '.join(late)}: "
                "free resources on the cluster or use fewer replicas"
            ) from error
        except OutOfMemoryError as error:
            raise ActorError(f"an actor was ended while it loaded its model: {_NO_MEMORY}") from error
        except RayError as error:
            raise ActorError(f"an actor died while it loaded its model: {_reason(error)}") from error

    def _tell_actors(self, transport: Transport) -> None:
        told = [
            replica.actor.use.options(concurrency_group="turns").remote(transport)
            for replicas in self._replicas_of.values()
            for replica in replicas
        ]
        try:
            ray.get(told, timeout=START_SECONDS)
        except RayTaskError as error:
            raise ActorError(f"transport {transport.name} cannot be used: {_reason(error.cause or error)}") from error
        except GetTimeoutError as error:
            raise ClusterError(f"transport {transport.name} was not ready within {START_SECONDS:.0f} s") from error
        except RayError as error:
            raise ActorError(f"an actor died while transport {transport.name} began: {_reason(error)}") from error

    def _describe(self, cluster: Cluster, resources: ActorResources, threads: int, devices: Sequence[str]) -> str:
        num_actors = sum(self._replicas.values())
        num_nodes = len(cluster.nodes)
        place = f"{_count(num_actors, 'actor')} on {_count(num_nodes, 'node')}"
        kinds = ", ".join(sorted(set(devices)))
        share = f"{resources.num_gpus:g} GPU each" if resources.num_gpus else f"{_count(threads, 'torch thread')} each"
        return f"{place}, {kinds}, {share}"


def _situation(loaded: Sequence[Loaded]) -> Situation:
    """Where the actors have come up, and what all of them have."""
    gpus = {one.gpu for one in loaded}
    is_shared = len(gpus) < len(loaded)
    return Situation(
        device="cpu" if None in gpus else "cuda",
        nodes="one" if len({one.node_id for one in loaded}) == 1 else "several",
        gpus="one" if len(gpus) == 1 and is_shared else "shared" if is_shared else "own",
        available=frozenset.intersection(*(one.available for one in loaded)),
    )


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _reason(error: BaseException) -> str:
    """The last line of a remote error: Ray puts the whole remote traceback into the text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
