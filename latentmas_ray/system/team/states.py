"""Whether a run asks models whose layers keep states for more than a state can give, before anything is started.

A state (linear attention, a state-space layer) sums up all tokens before it: a chain continues from it, and nothing can
be taken out of it, moved or joined.
"""

from collections.abc import Collection

from latentmas_ray.config import RunConfig
from latentmas_ray.config.latent_steps import latent_steps_of
from latentmas_ray.errors import ConfigError, TopologyError
from latentmas_ray.topology import Topology
from latentmas_ray.topology.agent import Agent

_WHY = "its layers keep states, which sum up all tokens before them"


def check_states(config: RunConfig, topology: Topology, agents: Collection[str]) -> None:
    """Raise TopologyError or ConfigError for what models with states cannot do; `agents` have such models."""
    if not agents:
        return
    for agent in topology.agents:
        if agent.name not in agents:
            continue
        model = config.models.get(agent.name, config.model)
        _check_reads(topology, agent, model)
        if agent.thinks == "latent":
            _check_hand_over(config, agent, model)
    if config.tp > 1:
        raise ConfigError("tp", config.tp, f"it must be 1: states of {config.model} are not divided over ranks")
    if config.trace:
        expected = f"it must be 0: the effect of a memory is measured without it, and of {config.model}"
        raise ConfigError("trace", config.trace, f"{expected} {_WHY}")


def _check_reads(topology: Topology, agent: Agent, model: str) -> None:
    reads = topology.memory_read_by(agent.name)
    everything = {name for memory in reads for name in memory.agents()}
    if reads and not everything <= set(reads[-1].agents()):
        expected = f"{model} cannot merge parallel branches, as {_WHY}; use a chain, in which every agent reads the one"
        branches = ", ".join(memory.agent for memory in reads)
        raise TopologyError(f"agents.{agent.name}.reads", branches, f"{expected} before it (sequential)")


def _check_hand_over(config: RunConfig, agent: Agent, model: str) -> None:
    steps = config.latent_steps if agent.latent_steps is None else agent.latent_steps
    share = config.keep if agent.keep is None else agent.keep
    why = f"{model} hands over all of a turn, as {_WHY}"
    if agent.hands_over != "all":
        raise TopologyError(f"agents.{agent.name}.hands_over", agent.hands_over, f"it must be all: {why}")
    if share < 1:
        raise ConfigError("keep", share, f"it must be 1: {why}")
    if config.guard in ("drop", "text"):
        raise ConfigError("guard", config.guard, f"it must be off or warn: {why}")
    if latent_steps_of(steps).fills:
        expected = f"{model} thinks one step after another, as {_WHY}: use a number, or max:N"
        raise ConfigError("latent_steps", str(steps), expected)
