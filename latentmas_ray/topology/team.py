"""The model of each agent, and over which links memory has to be translated because reader and writer differ in it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from latentmas_ray.errors import ConfigError
from latentmas_ray.topology.agent import Topology


@dataclass(frozen=True, order=True)
class AgentModel:
    """A model as an agent loads it. Agents with equal ones exchange KV."""

    name: str  # tiny, a folder or a hub id
    dtype: str = "auto"
    revision: str = ""  # empty: the newest

    def __str__(self) -> str:
        more = [self.dtype] * (self.dtype != "auto") + [self.revision] * bool(self.revision)
        return f"{self.name} ({', '.join(more)})" if more else self.name


@dataclass(frozen=True)
class Team:
    """The model of each agent of a topology, in topological order, and where maps between them are."""

    by_agent: Mapping[str, AgentModel]
    translation: str | None = None  # where the trained maps of thoughts are, as it was given; None: there are none

    @classmethod
    def of(
        cls,
        topology: Topology,
        *,
        model: str,
        models: Mapping[str, str],
        dtype: str = "auto",
        revision: str | None,
        translation: str | None = None,
    ) -> "Team":
        """Return the team of a run: `model`, `dtype` and `revision` are those of agents without their own. A model of
        an agent's own has no revision."""
        found = {}
        for agent in topology.agents:
            own = models.get(agent.name, agent.model) or model
            found[agent.name] = AgentModel(own, agent.dtype or dtype, revision or "" if own == model else "")
        return cls(found, translation)

    @property
    def models(self) -> tuple[AgentModel, ...]:
        """The distinct models, in the order of their first agents."""
        return tuple(dict.fromkeys(self.by_agent.values()))

    @property
    def is_mixed(self) -> bool:
        """Whether two agents differ in their model."""
        return len(self.models) > 1

    def foreign_to(self, topology: Topology, reader: str) -> dict[str, str]:
        """Return the agents whose memory `reader` reads and whose model is another, each with its model's name."""
        sources = dict.fromkeys(name for memory in topology.memory_read_by(reader) for name in memory.agents())
        own = self.by_agent.get(reader)
        return {name: self.by_agent[name].name for name in sources if self.by_agent.get(name, own) != own}

    def read_by(self, topology: Topology, reader: AgentModel) -> tuple[str, ...]:
        """Return the names of the models from which agents with the model `reader` get memory to translate."""
        agents = [name for name, one in self.by_agent.items() if one == reader]
        return tuple(dict.fromkeys(name for agent in agents for name in self.foreign_to(topology, agent).values()))


def own_models(topology: Topology, model: str, models: Mapping[str, str]) -> dict[str, str]:
    """Return the models of agents that do not have `model`: those of `models` and those that the topology names, in
    topological order.

    Raises ConfigError for an agent that the topology lacks, and for one that has another model there.
    """
    text = ",".join(f"{agent}={one}" for agent, one in models.items())
    names = [agent.name for agent in topology.agents]
    if unknown := [name for name in models if name not in names]:
        raise ConfigError("models", text, f"there is no agent {unknown[0]!r}; the agents are {', '.join(names)}")
    found = {}
    for agent in topology.agents:
        given = models.get(agent.name)
        if given is not None and agent.model not in (None, given):
            where = topology.at(f"agents.{agent.name}.model")
            raise ConfigError("models", f"{agent.name}={given}", f"{where} is {agent.model}: leave one of the two out")
        own = given or agent.model
        if own is not None and own != model:
            found[agent.name] = own
    return found


def describe_translations(topology: Topology, foreign: Mapping[str, Mapping[str, str]], team: Team) -> Iterator[str]:
    """Yield one line for each reader and each other model whose memory it reads; `foreign` is by reader and writer."""
    for agent in topology.agents:
        writers: dict[str, list[str]] = {}
        for writer, model in foreign.get(agent.name, {}).items():
            writers.setdefault(model, []).append(writer)
        own = team.by_agent[agent.name].name if writers else ""
        for model, names in writers.items():
            trained = "" if team.translation is None else f" by the trained map in {team.translation},"
            change = f"translated from {model} to {own}{trained} and recomputed"
            if model == own:
                change = f"recomputed by {own} in another dtype"
            yield f"{', '.join(names)} → {agent.name}: memory is {change}"
