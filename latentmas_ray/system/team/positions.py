"""Whether the agents' latent steps can fit the model's positions, as far as that is known before any question is
read."""

from collections.abc import Mapping

from latentmas_ray.config import RunConfig, most_steps
from latentmas_ray.errors import ConfigError, TopologyError
from latentmas_ray.scheduler.turns import agents_of
from latentmas_ray.topology import Topology
from latentmas_ray.topology.agent import Agent


def check_steps_fit(config: RunConfig, topology: Topology, limits: Mapping[str, int | None]) -> None:
    """Raise ConfigError for `latent_steps`, or TopologyError for those of agents, that exceed the positions of their
    models, `limits`; None: there is no limit. Memory of another model is counted as it was written.

    Every agent needs at least one position for its prompt, one for each of its steps (or for one token that it
    writes), and those of all memory that it reads. Only the last is left out under guard text, where text may come in
    place of memory.
    """
    known = {name: limit for name, limit in limits.items() if limit is not None}
    chains = {
        agent.name: (*(() if config.guard == "text" else _read_by(topology, agent)), agent)
        for agent in topology.agents
        if agent.name in known
    }
    needed = {name: sum(_needs(agent, config) for agent in chain) for name, chain in chains.items()}
    worst = max(needed, key=lambda name: needed[name] - known[name], default=None)
    if worst is None or needed[worst] <= known[worst]:
        return
    limit, model = known[worst], config.models.get(worst, config.model)
    why = f"agent {worst} needs at least {needed[worst]} positions, model {model} has {limit}"
    if any(agent.latent_steps is None for agent in chains[worst] if agent.thinks == "latent"):
        raise ConfigError("latent_steps", config.latent_steps, f"{why}; {_most(config, chains, known)}")
    own = next(agent for agent in chains[worst] if agent.latent_steps)
    raise TopologyError(f"agents.{own.name}.latent_steps", str(own.latent_steps), f"{why}; use fewer steps")


def _read_by(topology: Topology, agent: Agent) -> tuple[Agent, ...]:
    return tuple(topology.by_name[name] for name in agents_of(topology.memory_read_by(agent.name)))


def _needs(agent: Agent, config: RunConfig) -> int:
    if agent.thinks == "text":
        return 2
    return 1 + most_steps(config.latent_steps if agent.latent_steps is None else agent.latent_steps)


def _most(config: RunConfig, chains: Mapping[str, tuple[Agent, ...]], limits: Mapping[str, int]) -> str:
    """Return the largest number of steps with which every agent can fit."""
    mosts = []
    for name, chain in chains.items():
        sharing = sum(agent.thinks == "latent" and agent.latent_steps is None for agent in chain)
        if sharing:
            fixed = sum(_needs(agent, config) for agent in chain) - sharing * most_steps(config.latent_steps)
            mosts.append((limits[name] - fixed) // sharing)
    most = min(mosts)
    return "use a model with more positions" if most < 0 else f"it must be at most {most}, less what prompts need"
