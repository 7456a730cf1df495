"""A plan: which agent's replica and shard goes on which node and GPU, computed before anything starts."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import lcm

from latentmas_ray.config import PlacementName
from latentmas_ray.placement.assignment import Chain, ReplicaId, Seats, Slot
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

_MAX_PAIRS = 4096  # of replicas that are looked at for one hand-over


@dataclass(frozen=True, kw_only=True)
class PlanRequest:
    """What is to be placed, and where. Without `model` memory is not reckoned with, as on a cluster whose GPUs' sizes
    nobody tells."""

    agents: tuple[str, ...]
    replicas: Mapping[str, int]
    nodes: tuple[NodeResources, ...]
    placement: PlacementName = "auto"
    tp: int = 1
    busy_agents: int = 1  # that work at the same time
    topology: Topology | None = None
    model: ModelDims | None = None
    workload: Workload = field(default_factory=Workload)

    @property
    def num_chains(self) -> int:
        return max(self.replicas.values())

    def chains(self) -> tuple[Chain, ...]:
        """The r-th replicas of all agents that have so many hand over to one another."""
        return tuple(
            tuple(ReplicaId((agent,), replica) for agent in self.agents if replica < self.replicas[agent])
            for replica in range(self.num_chains)
        )

    def colocated(self) -> tuple[Chain, ...]:
        """One team a replica, which is all agents."""
        return tuple((ReplicaId(self.agents, replica),) for replica in range(self.num_chains))


@dataclass(frozen=True)
class PlannedActor:
    """One actor to be: a tp rank of a team, and its seat."""

    replica_id: ReplicaId
    rank: int
    slot: Slot


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Who goes where. `why` says why `strategy` was taken where the user left it open."""

    request: PlanRequest
    strategy: PlacementName
    why: str
    share: ActorResources
    slots: Seats

    def shards(self) -> Iterator[PlannedActor]:
        """All of them: teams in the order of their agents and replicas, ranks in order."""
        for replica_id in sorted(
            self.slots, key=lambda replica_id: (self.request.agents.index(replica_id.agents[0]), replica_id.replica)
        ):
            for rank, slot in enumerate(self.slots[replica_id]):
                yield PlannedActor(replica_id, rank, slot)

    @property
    def is_colocated(self) -> bool:
        return self.strategy == "colocate"

    @property
    def nodes_used(self) -> frozenset[int]:
        return frozenset(shard.slot.node for shard in self.shards())

    @cached_property
    def memory_estimates(self) -> Mapping[str, MemoryEstimate]:
        """By agent; empty where the topology is not known."""
        if self.request.topology is None:
            return {}
        return {demand.agent: demand for demand in memory_estimates(self.request.topology, self.request.workload)}

    def memory_of(self, replica_id: ReplicaId) -> ActorMemory:
        """Of one shard of a team."""
        assert self.request.model is not None, "nobody said which model"
        agents = [self.memory_estimates[agent] for agent in replica_id.agents]
        return shard_memory(self.request.model, agents, self.request.workload, self.request.tp)

    @cached_property
    def memory(self) -> Mapping[Slot, ActorMemory]:
        """What is taken of each GPU (on cores: of each node), all its shards together; empty without a model."""
        taken: defaultdict[Slot, list[ActorMemory]] = defaultdict(list)
        if self.request.model is not None:
            for shard in self.shards():
                taken[shard.slot].append(self.memory_of(shard.replica_id))
        return {
            slot: ActorMemory(
                weights_bytes=sum(part.weights_bytes for part in parts),
                kv_bytes=sum(part.kv_bytes for part in parts),
                segments_bytes=sum(part.segments_bytes for part in parts),
                allowance_bytes=sum(part.allowance_bytes for part in parts),
            )
            for slot, parts in taken.items()
        }

    def replica_id_of(self, agent: str, replica: int) -> ReplicaId:
        """The team that carries out the turns of one replica of an agent."""
        agents = self.request.agents if self.is_colocated else (agent,)
        return ReplicaId(agents, replica)

    def hand_overs(self, speeds: LinkSpeeds) -> tuple[PlannedTransfer, ...]:
        """Every segment that every reader pulls for a batch, those of earlier agents too; replicas take batches in
        turn, so batch b goes from replica b mod R of the source to replica b mod R' of the reader."""
        assert self.request.model is not None, "nobody said which model"
        per_token = self.request.model.bytes_per_token * self.request.workload.batch_size
        found = []
        for reader, demand in self.memory_estimates.items():
            for source, tokens in demand.reads:
                links = self._links(source, reader, speeds)
                part = tokens * per_token / self.request.tp
                found.append(
                    PlannedTransfer(
                        source=source,
                        reader=reader,
                        tokens=tokens,
                        num_bytes=tokens * per_token,
                        seconds=max(speeds.seconds(link, part) for link in links),
                        links=links,
                    )
                )
        return tuple(found)

    def _links(self, source: str, reader: str, speeds: LinkSpeeds) -> dict[PlannedLink, int]:
        one, other = self.request.replicas[source], self.request.replicas[reader]
        counts: Counter[PlannedLink] = Counter()
        for batch in range(min(lcm(one, other), _MAX_PAIRS)):
            replica_ids = self.replica_id_of(source, batch % one), self.replica_id_of(reader, batch % other)
            links = {
                speeds.link(here, there, same_actor=replica_ids[0] == replica_ids[1])
                for here, there in zip(*(self.slots[replica_id] for replica_id in replica_ids), strict=True)
            }
            counts[max(links, key=lambda link: speeds.seconds(link, 1))] += 1
        return dict(counts)


def nodes_alike(
    num_nodes: int, *, num_gpus: int, num_cpus: float, gpu_bytes: int | None = None
) -> tuple[NodeResources, ...]:
    """A cluster of equal nodes."""
    return tuple(
        NodeResources(name=f"node {number}", num_gpus=num_gpus, num_cpus=num_cpus, gpu_bytes=gpu_bytes)
        for number in range(num_nodes)
    )


def gpu_sizes(nodes: Sequence[NodeResources]) -> list[int]:
    """The different sizes of the GPUs whose size is known."""
    return sorted({node.gpu_bytes for node in nodes if node.whole_gpus and node.gpu_bytes is not None})
