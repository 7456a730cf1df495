"""What every turn of a topology waits for, and who reads what it writes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from latentmas_ray.topology.agent import Agent, AgentMemory, Topology

# answer: all agents work. think: all but the answering one, whose memory is the result. answer-from-memory: the
# answering agent alone, on memory that is given to it.
Goal = Literal["answer", "think", "answer-from-memory"]


@dataclass(frozen=True)
class TopologyIndex:
    """For every agent that works, in topological order: what its turn waits for and who reads its segment."""

    topology: Topology
    agents: tuple[Agent, ...]  # those that work
    sources: Mapping[str, tuple[str, ...]]  # latent agents whose segments it reads, near and far
    texts: Mapping[str, tuple[str, ...]]  # text agents whose texts stand in its prompt
    readers: Mapping[str, frozenset[str]]
    read_by_answering: tuple[str, ...]  # latent agents that work and whose segments the answering agent reads

    @classmethod
    def of(cls, topology: Topology, goal: Goal = "answer") -> "TopologyIndex":
        """The route through `topology`."""
        answering = topology.answering_agent
        if goal == "answer-from-memory":
            none: dict[str, tuple[str, ...]] = {answering.name: ()}
            return cls(topology, (answering,), none, none, {answering.name: frozenset()}, ())
        agents = tuple(agent for agent in topology.agents if goal == "answer" or agent.name != answering.name)
        names = [agent.name for agent in agents]
        sources = {name: agents_of(topology.memory_read_by(name)) for name in names}
        return cls(
            topology=topology,
            agents=agents,
            sources=sources,
            texts={name: tuple(agent.name for agent in topology.text_ancestors(name)) for name in names},
            readers={name: frozenset(reader for reader in names if name in sources[reader]) for name in names},
            read_by_answering=agents_of(topology.memory_read_by(answering.name)),
        )


def agents_of(memories: Iterable[AgentMemory]) -> tuple[str, ...]:
    """All agents whose segments these memories hold, each once."""
    return tuple(dict.fromkeys(name for memory in memories for name in memory.agents()))
