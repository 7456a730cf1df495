"""Whose actors execute the turns of agents that have none of their own: those of the first topology serve all."""

from collections.abc import Sequence
from itertools import count

from latentmas_ray.config import RunConfig
from latentmas_ray.errors import ConfigError
from latentmas_ray.scheduler.protocol import StandIns
from latentmas_ray.system.team.run_models import team_of
from latentmas_ray.topology import Agent, AgentModel, Topology


def find_stand_ins(first: tuple[RunConfig, Topology], others: Sequence[tuple[RunConfig, Topology]]) -> StandIns:
    """Return the stand-ins of the agents of `others`, each with its configuration; `first` is the topology with actors.

    An actor computes for any agent with its model, but one of text agents writes texts alone. Agents take turns. Raises
    ConfigError for an agent whose model or kind no actor has.
    """
    models = team_of(*first).by_agent
    actors: dict[tuple[AgentModel, str], list[str]] = {}
    for agent in first[1].agents:
        actors.setdefault((models[agent.name], agent.thinks), []).append(agent.name)
    found: dict[tuple[str, str], str] = {}
    places = count()
    for config, topology in others:
        own = team_of(config, topology).by_agent
        for agent in topology.agents:
            model = own[agent.name]
            alike = actors.get((model, agent.thinks), [])
            if agent.name in alike or (agent.name, agent.thinks) in found:
                continue
            # An actor that thinks can write, too, batch by batch.
            able = alike or (actors.get((model, "latent"), []) if agent.thinks == "text" else [])
            if not able:
                raise _no_actor(config, topology, agent, first[1])
            found[agent.name, agent.thinks] = able[next(places) % len(able)]
    return found


def _no_actor(config: RunConfig, topology: Topology, agent: Agent, first: Topology) -> ConfigError:
    what = "thinks in latent space" if agent.thinks == "latent" else "writes text"
    expected = f"its agent {agent.name} {what} with a model that no such agent of {first.name} has; serve it by itself"
    return ConfigError("topologies", config.topology, expected)
