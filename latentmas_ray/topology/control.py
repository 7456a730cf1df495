"""Controls of latent collaboration: the same run with less memory than it should have, or with another question's.

Whoever claims that memory carried a thought has to show that another memory, or none, does not do as well.
"""

from dataclasses import replace
from typing import Literal

from latentmas_ray.topology.agent import HandsOver, Topology

MemoryControl = Literal["matched", "deranged", "prompt-only", "latent-only", "none"]

_PARTS: dict[MemoryControl, HandsOver] = {"prompt-only": "prompt", "latent-only": "latents"}


def apply_control(topology: Topology, memory: MemoryControl) -> Topology:
    """The topology whose answering agent gets this memory.

    prompt-only and latent-only: every latent agent hands over that part, whatever it says itself. none: the answering
    agent alone. matched and deranged: the topology as it is (deranged is a matter of the questions).
    """
    if memory == "none":
        return replace(topology, agents=(replace(topology.answering_agent, reads=()),))
    if memory not in _PARTS:
        return topology
    agents = tuple(
        replace(agent, hands_over=_PARTS[memory]) if agent.thinks == "latent" else agent for agent in topology.agents
    )
    return replace(topology, agents=agents)
