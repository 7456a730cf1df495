"""Ablations of a topology: methods (one agent alone, text, latent) and memory controls.

A control shows whether memory carries information: does another memory, or none, give the same accuracy?
"""

from typing import Literal

from latentmas_ray.errors import ConfigError, TopologyError
from latentmas_ray.topology.agent import LATENT_KEYS, LATENT_PARTS, Agent, HandsOver, Topology
from latentmas_ray.topology.yaml import BUILTIN, load_topology

MemoryControl = Literal["matched", "deranged", "prompt-only", "latent-only", "latent-only+sink", "none", "corrupted"]

_PARTS: dict[MemoryControl, HandsOver] = {
    "prompt-only": "prompt",
    "latent-only": "latents",
    "latent-only+sink": "latents+sink",
}


def builtin_for(task: str, name: str) -> str:
    """Return `TASK-NAME` if there is a built-in topology with prompts for this task, else `name`."""
    return f"{task}-{name}" if f"{task}-{name}" in BUILTIN else name


def apply_method(
    topology: Topology, method: Literal["single", "text", "latent", "vote"], *, single: str = "single"
) -> Topology:
    """Return the topology to run for a method.

    single: the given topology if it has one agent, else the built-in one that `single` names. text: the same agents and
    prompts, all decoding text. latent: the topology unchanged. Raises TopologyError if the method is latent and no
    agent is, and ConfigError for method vote: what decides over finished runs has no agents.
    """
    if method == "vote":
        raise ConfigError(
            "method", method, "it must be single, text or latent; latentmas vote decides over finished runs"
        )
    if method == "single":
        return topology if len(topology.agents) == 1 else load_topology(single)
    if method == "text":
        return topology.replace(agents=[_as_text(agent) for agent in topology.agents])
    if all(agent.thinks == "text" for agent in topology.agents):
        expected = "it has no latent agent; use method single or text, or another topology"
        raise TopologyError(topology.at("agents"), topology.name, expected)
    return topology


def apply_control(topology: Topology, memory: MemoryControl) -> Topology:
    """Return the topology in which the answering agent gets this memory.

    prompt-only, latent-only, latent-only+sink: every latent agent hands over that part, overriding its own
    `hands_over`. none: the answering agents alone. Others: the topology unchanged (`mismatch_memory` changes the
    questions for deranged, `corrupt_one` for corrupted). Raises ConfigError if an agent has no latents to hand over.
    """
    if memory == "none":
        return topology.replace(agents=[agent.replace(reads=()) for agent in topology.answering_agents])
    if memory not in _PARTS:
        return topology
    for agent in topology.agents:
        if _PARTS[memory] in LATENT_PARTS and agent.latent_steps == 0:
            expected = f"agent {agent.name} has latent_steps: 0, so it has no latents to hand over"
            raise ConfigError("memory", memory, expected)
    part = _PARTS[memory]
    changes: dict[str, object] = {"hands_over": part} | ({"keep": None} if part in LATENT_PARTS else {})
    return topology.replace(
        agents=[agent.replace(**changes) if agent.thinks == "latent" else agent for agent in topology.agents]
    )


def handing_over_thoughts_alone(topology: Topology) -> tuple[str, ...]:
    """Return the names of the agents that hand over their thoughts alone, as many as the run says."""
    return tuple(
        agent.name for agent in topology.agents if agent.hands_over in LATENT_PARTS and agent.latent_steps is None
    )


def _as_text(agent: Agent) -> Agent:
    given = agent.model_fields_set - set(LATENT_KEYS)
    return Agent(**{key: getattr(agent, key) for key in given} | {"thinks": "text"})
