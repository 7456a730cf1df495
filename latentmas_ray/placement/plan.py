"""PlanRequest and Plan: the node and GPU of every rank of every replica, with memory estimates and transfers."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import floor, lcm
from typing import Literal

from latentmas_ray.config import PlacementName
from latentmas_ray.placement.assignment import Pipeline, ReplicaId, Slot, Slots
from latentmas_ray.placement.link_speeds import LinkSpeeds, PlannedLink, PlannedTransfer
from latentmas_ray.placement.memory_estimate import (
    ActorMemory,
    MemoryEstimate,
    Workload,
    memory_estimates,
    shard_memory,
)
from latentmas_ray.placement.model_dims import ModelDims
from latentmas_ray.placement.resources import ActorResources, NodeResources
from latentmas_ray.topology.agent import Topology

_MAX_PAIRS = 4096  # of replicas that are considered for one transfer
_TOKEN_ID_BYTES = 8


@dataclass(frozen=True, kw_only=True)
class PlanRequest:
    """What to place, and on which nodes. Without `model`, GPU memory is not checked (as on a cluster whose GPU sizes
    are unknown)."""

    agents: tuple[str, ...]
    replicas: Mapping[str, int]
    nodes: tuple[NodeResources, ...]
    placement: PlacementName = "auto"
    tp: int = 1
    busy_agents: int = 1  # the number of agents that work at the same time
    topology: Topology | None = None
    model: ModelDims | None = None
    workload: Workload = field(default_factory=Workload)
    # Agents that write question by question, and how many questions at the same time; the others compute batches.
    written_at_once: Mapping[str, int] = field(default_factory=dict)
    # Agents whose engine needs an actor of its own, and so a copy of the weights besides that of its neighbours.
    apart: frozenset[str] = frozenset()
    # Agents with another model than `model`: its name, and if `model` is known its sizes. They share no actor with
    # others.
    other_models: Mapping[str, str] = field(default_factory=dict)
    other_dims: Mapping[str, ModelDims] = field(default_factory=dict)

    def dims_of(self, agent: str) -> ModelDims:
        """Return the sizes of an agent's model. The request must have a model."""
        dims = self.other_dims.get(agent, self.model)
        assert dims is not None, "the request has no model"
        return dims

    def have_one_model(self, *agents: str) -> bool:
        """Return whether these agents have the same model."""
        return len({self.other_models.get(agent) for agent in agents}) < 2

    def indivisible(self, tp: int) -> ModelDims | None:
        """Return a model of an agent that `tp` does not divide; None if it divides all that are known."""
        known = {} if self.model is None else {agent: self.dims_of(agent) for agent in self.agents}
        return next(
            (one for one in known.values() if one.num_kv_heads % tp or one.num_heads % tp or one.mlp_size % tp), None
        )

    @property
    def num_pipelines(self) -> int:
        return max(self.replicas.values())

    def pipelines(self) -> tuple[Pipeline, ...]:
        """Return one pipeline per replica number r: the r-th replicas of all agents that have one."""
        return tuple(
            tuple(ReplicaId((agent,), replica) for agent in self.agents if replica < self.replicas[agent])
            for replica in range(self.num_pipelines)
        )

    def colocated(self) -> tuple[Pipeline, ...]:
        """Return one pipeline per replica number, in which all agents share one replica."""
        return tuple((ReplicaId(self.agents, replica),) for replica in range(self.num_pipelines))


@dataclass(frozen=True)
class PlannedActor:
    """One actor to start: a tp rank of a replica, and its slot."""

    replica_id: ReplicaId
    rank: int
    slot: Slot


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The slot of every rank of every replica. `why`: the reason why `auto` chose `strategy`."""

    request: PlanRequest
    strategy: PlacementName
    why: str
    share: ActorResources
    slots: Slots
    # Actors on one GPU divide it equally, and those on different GPUs have different parts; else each has `share`.
    divides_gpus: bool = False

    def shards(self) -> Iterator[PlannedActor]:
        """Yield all actors, ordered by agent, replica and rank."""
        for replica_id in sorted(
            self.slots, key=lambda replica_id: (self.request.agents.index(replica_id.agents[0]), replica_id.replica)
        ):
            for rank, slot in enumerate(self.slots[replica_id]):
                yield PlannedActor(replica_id, rank, slot)

    @property
    def is_colocated(self) -> bool:
        return self.strategy == "colocate"

    @cached_property
    def actors_on(self) -> Mapping[Slot, int]:
        """How many actors are on each device."""
        return Counter(shard.slot for shard in self.shards())

    def gpus_of(self, slot: Slot) -> float:
        """Return the GPUs, or the part of one, that an actor there has; 0 if the model runs on CPUs."""
        if not self.share.num_gpus or not self.divides_gpus:
            return self.share.num_gpus
        return floor(10_000 / self.actors_on[slot]) / 10_000

    @property
    def nodes_used(self) -> frozenset[int]:
        return frozenset(shard.slot.node for shard in self.shards())

    @cached_property
    def memory_estimates(self) -> Mapping[str, MemoryEstimate]:
        """The estimates by agent; empty without a topology."""
        if self.request.topology is None:
            return {}
        request = self.request
        found = memory_estimates(self.request.topology, request.workload, request.written_at_once)
        return {one.agent: one for one in found}

    def memory_of(self, replica_id: ReplicaId) -> ActorMemory:
        """Return the memory of one rank of a replica. The request must have a model."""
        agents = [self.memory_estimates[agent] for agent in replica_id.agents]
        model = self.request.dims_of(replica_id.agents[0])
        return shard_memory(model, agents, self.request.workload, self.request.tp)

    @cached_property
    def memory(self) -> Mapping[Slot, ActorMemory]:
        """The memory used on each GPU (on cores: each node) by all its ranks together; empty without a model."""
        used: defaultdict[Slot, list[ActorMemory]] = defaultdict(list)
        if self.request.model is not None:
            for shard in self.shards():
                used[shard.slot].append(self.memory_of(shard.replica_id))
        return {
            slot: ActorMemory(
                weights_bytes=sum(part.weights_bytes for part in parts),
                kv_bytes=sum(part.kv_bytes for part in parts),
                segments_bytes=sum(part.segments_bytes for part in parts),
                allowance_bytes=sum(part.allowance_bytes for part in parts),
            )
            for slot, parts in used.items()
        }

    @cached_property
    def loading_bytes(self) -> Mapping[int, int]:
        """The bytes of host memory, by node, that actors with an engine of their own (`apart`) need while they start:
        each loads the whole model once on the CPU, to compare with it. Empty without a model."""
        found: Counter[int] = Counter()
        if self.request.model is not None:
            for shard in self.shards():
                if self.request.apart.intersection(shard.replica_id.agents):
                    found[shard.slot.node] += self.request.dims_of(shard.replica_id.agents[0]).weights_bytes()
        return found

    def replica_id_of(self, agent: str, replica: int) -> ReplicaId:
        """Return the id of the replica that executes the turns of replica number `replica` of an agent."""
        agents = self.request.agents if self.is_colocated else (agent,)
        return ReplicaId(agents, replica)

    def hand_overs(self, speeds: LinkSpeeds) -> tuple[PlannedTransfer, ...]:
        """Return every segment that a reader fetches for a batch, those of earlier agents included; of an agent with
        another model its recompute inputs. The request must have a model.

        Replicas take batches in turn: batch b goes from replica b mod R of the source to replica b mod R' of the
        reader.
        """
        found = []
        for reader, estimate in self.memory_estimates.items():
            for source, tokens in estimate.reads:
                num_bytes = self._handed_over_bytes(source, reader, tokens) * self.request.workload.batch_size
                slowest = [self._slowest(pair, speeds, num_bytes) for pair in self._pairs(source, reader)]
                found.append(
                    PlannedTransfer(
                        source=source,
                        reader=reader,
                        tokens=tokens,
                        num_bytes=num_bytes,
                        seconds=max(seconds for seconds, _ in slowest),
                        mean_seconds=sum(seconds for seconds, _ in slowest) / len(slowest),
                        links=dict(Counter(link for _, link in slowest)),
                    )
                )
        return tuple(found)

    def _handed_over_bytes(self, source: str, reader: str, tokens: int) -> int:
        """Return the bytes of a segment of one question, as this reader gets it."""
        model, one = self.request.dims_of(source), self.memory_estimates[source]
        if self.request.have_one_model(source, reader):
            return model.memory_bytes(tokens)
        thoughts = one.own_tokens - self.request.workload.prompt_tokens
        return one.own_tokens * _TOKEN_ID_BYTES + max(0, thoughts) * model.hidden_size * model.itemsize

    def port_bytes(self) -> Mapping[tuple[int, Literal["sends", "receives"]], float]:
        """Return the bytes of a batch that each node sends, and receives, over the network, as the mean over all
        batches. The request must have a model. Replicas take batches in turn, like in `hand_overs`."""
        found: defaultdict[tuple[int, Literal["sends", "receives"]], float] = defaultdict(float)
        for reader, estimate in self.memory_estimates.items():
            for source, tokens in estimate.reads:
                num_bytes = self._handed_over_bytes(source, reader, tokens) * self.request.workload.batch_size
                pairs = list(self._pairs(source, reader))
                for here, there in pairs:
                    one, other = self.slots[here][0].node, self.slots[there][0].node
                    if one != other:
                        found[one, "sends"] += num_bytes / len(pairs)
                        found[other, "receives"] += num_bytes / len(pairs)
        return found

    def _pairs(self, source: str, reader: str) -> Iterator[tuple[ReplicaId, ReplicaId]]:
        one, other = self.request.replicas[source], self.request.replicas[reader]
        for batch in range(min(lcm(one, other), _MAX_PAIRS)):
            yield self.replica_id_of(source, batch % one), self.replica_id_of(reader, batch % other)

    def _slowest(
        self, pair: tuple[ReplicaId, ReplicaId], speeds: LinkSpeeds, num_bytes: int
    ) -> tuple[float, PlannedLink]:
        """Return the seconds and the link of the rank that is the last to have its part of `num_bytes`.

        All ranks move their parts at the same time. Those whose parts leave one node, or arrive at one, over the
        network share it: it belongs to the node, and all other links to the rank's own GPU or core.
        """
        source, reader = pair
        places = list(zip(self.slots[source], self.slots[reader], strict=True))
        links = [speeds.link(here, there, same_actor=source == reader) for here, there in places]
        remote = [place for place, link in zip(places, links, strict=True) if link == "network"]
        leaving = Counter(here.node for here, _ in remote)
        arriving = Counter(there.node for _, there in remote)
        part = num_bytes / self.request.tp
        return max(
            (speeds.seconds(link, part * max(1, leaving[here.node], arriving[there.node])), link)
            if link == "network"
            else (speeds.seconds(link, part), link)
            for (here, there), link in zip(places, links, strict=True)
        )


def nodes_alike(
    num_nodes: int, *, num_gpus: int, num_cpus: float, gpu_bytes: int | None = None
) -> tuple[NodeResources, ...]:
    """Return the nodes of a cluster in which all are equal."""
    return tuple(
        NodeResources(name=f"node {number}", num_gpus=num_gpus, num_cpus=num_cpus, gpu_bytes=gpu_bytes)
        for number in range(num_nodes)
    )


def gpu_sizes(nodes: Sequence[NodeResources]) -> list[int]:
    """Return the distinct known GPU sizes, in bytes, smallest first."""
    return sorted({node.gpu_bytes for node in nodes if node.whole_gpus and node.gpu_bytes is not None})
