"""What is run of a topology: one agent alone, agents that talk in text or in latent space, or less memory as a control.

Whoever claims that memory carried a thought has to show that another memory, or none, does not do as well.
"""

from typing import Literal

from latentmas_ray.errors import ConfigError, TopologyError
from latentmas_ray.topology.agent import LATENT_KEYS, Agent, HandsOver, Topology
from latentmas_ray.topology.yaml import BUILTIN, load_topology

MemoryControl = Literal["matched", "deranged", "prompt-only", "latent-only", "none"]

_PARTS: dict[MemoryControl, HandsOver] = {"prompt-only": "prompt", "latent-only": "latents"}


def builtin_for(task: str, name: str) -> str:
    """The built-in topology of that name that is made for the task, if there is one: its prompts fit its records."""
    return f"{task}-{name}" if f"{task}-{name}" in BUILTIN else name


def apply_method(
    topology: Topology, method: Literal["single", "text", "latent"], *, single: str = "single"
) -> Topology:
    """The topology that is run.

    single: one agent alone: the given topology if it has one agent, else the built-in one that `single` names. text:
    the same agents and prompts, all decoding text. latent: the topology as it stands. Raises TopologyError where the
    method is latent and no agent is.
    """
    if method == "single":
        return topology if len(topology.agents) == 1 else load_topology(single)
    if method == "text":
        return topology.replace(agents=[_as_text(agent) for agent in topology.agents])
    if all(agent.thinks == "text" for agent in topology.agents):
        expected = "no agent of it thinks latently; use method single or text, or another topology"
        raise TopologyError(topology.at("agents"), topology.name, expected)
    return topology


def apply_control(topology: Topology, memory: MemoryControl) -> Topology:
    """The topology whose answering agent gets this memory.

    prompt-only and latent-only: every latent agent hands over that part, whatever it says itself. none: the answering
    agent alone. matched and deranged: the topology as it is (deranged is a matter of the questions). Raises
    ConfigError where an agent has nothing of the part that is asked for.
    """
    if memory == "none":
        return topology.replace(agents=[topology.answering_agent.replace(reads=())])
    if memory not in _PARTS:
        return topology
    for agent in topology.agents:
        if memory == "latent-only" and agent.latent_steps == 0:
            expected = f"agent {agent.name} has latent_steps: 0, so it has no latents to hand over"
            raise ConfigError("memory", memory, expected)
    return topology.replace(
        agents=[
            agent.replace(hands_over=_PARTS[memory]) if agent.thinks == "latent" else agent for agent in topology.agents
        ]
    )


def _as_text(agent: Agent) -> Agent:
    kept = agent.model_fields_set - set(LATENT_KEYS)
    return Agent(**{key: getattr(agent, key) for key in kept} | {"thinks": "text"})
