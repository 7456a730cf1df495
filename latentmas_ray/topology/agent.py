"""Agents and the DAG between them: who reads whose working memory, and who answers. Pure Python."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

Thinks = Literal["latent", "text"]
HandsOver = Literal["all", "prompt", "latents"]


@dataclass(frozen=True, kw_only=True)
class Agent:
    """One participant: its role, its prompt, what it reads and how it thinks."""

    name: str
    prompt: str
    thinks: Thinks = "latent"
    system: str | None = None
    reads: tuple[str, ...] = ()
    latent_steps: int | None = None
    hands_over: HandsOver = "all"
    close_turn: bool = False
    template: Mapping[str, Any] = field(default_factory=dict)
    suffix: str = ""


@dataclass(frozen=True)
class AgentMemory:
    """The working memory of one agent: the merge of what it read, in this order, then its own segment.

    A tree of names, not of tensors: the driver sends it along with the segments, and whoever reads them
    (`memory.merge`) computes from it where each segment stands.
    """

    agent: str
    reads: tuple["AgentMemory", ...] = ()

    def agents(self) -> tuple[str, ...]:
        """All agents whose segments this memory holds, each once, in the order of the merged sequence."""
        seen: dict[str, None] = {}
        for branch in self.reads:
            seen.update(dict.fromkeys(branch.agents()))
        seen[self.agent] = None
        return tuple(seen)


@dataclass(frozen=True, kw_only=True)
class Topology:
    """A validated DAG with exactly one answering agent. Agents stand in topological order."""

    name: str
    agents: tuple[Agent, ...]
    source: str = "<memory>"  # the file it came from, for messages

    @cached_property
    def by_name(self) -> dict[str, Agent]:
        return {agent.name: agent for agent in self.agents}

    @cached_property
    def answering_agent(self) -> Agent:
        """The one agent that nobody reads; it decodes the answer."""
        read = {name for agent in self.agents for name in agent.reads}
        (answering,) = (agent for agent in self.agents if agent.name not in read)
        return answering

    @cached_property
    def width(self) -> int:
        """The largest number of agents that can work on one batch at the same time: those of one depth."""
        depths: dict[str, int] = {}
        for agent in self.agents:
            depths[agent.name] = max((depths[read] + 1 for read in agent.reads), default=0)
        return max(Counter(depths.values()).values())

    def memory_of(self, name: str) -> AgentMemory:
        """What `name` hands over: the tree of latent agents behind it and itself."""
        return AgentMemory(name, self.memory_read_by(name))

    def memory_read_by(self, name: str) -> tuple[AgentMemory, ...]:
        """The memories that `name` starts from, in the order of its `reads`; text agents hand over none."""
        return tuple(self.memory_of(read) for read in self.by_name[name].reads if self.by_name[read].thinks == "latent")

    def text_ancestors(self, name: str) -> tuple[Agent, ...]:
        """Every text agent that `name` reads, directly or through other text agents, in topological order."""
        wanted, todo = set(), [name]
        while todo:
            for read in self.by_name[todo.pop()].reads:
                if self.by_name[read].thinks == "text" and read not in wanted:
                    wanted.add(read)
                    todo.append(read)
        return tuple(agent for agent in self.agents if agent.name in wanted)
