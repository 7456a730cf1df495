"""What a method makes of a topology: one agent alone, agents that talk in text, or in latent space."""

from dataclasses import replace
from typing import Literal

from latentmas_ray.errors import TopologyError
from latentmas_ray.topology.agent import Topology
from latentmas_ray.topology.load import BUILTIN, load_topology


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
        agents = tuple(
            replace(agent, thinks="text", latent_steps=None, hands_over="all", close_turn=False)
            for agent in topology.agents
        )
        return replace(topology, agents=agents)
    if all(agent.thinks == "text" for agent in topology.agents):
        expected = "no agent of it thinks latently; use method single or text, or another topology"
        raise TopologyError(f"{topology.source}: agents", topology.name, expected)
    return topology
