"""The models of a run: which agent has which, where each is, and whose memory it reads."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentmas_ray.config import RunConfig
from latentmas_ray.errors import ConfigError, ModelError
from latentmas_ray.models.names import absolute_name, check_name, known_positions, known_states, known_window
from latentmas_ray.placement import ModelDims, known_dims
from latentmas_ray.topology import AgentModel, Team, Topology

if TYPE_CHECKING:
    from latentmas_ray.models.chat import ChatTokenizer
    from latentmas_ray.models.given import GivenModel
    from latentmas_ray.models.translation import ThoughtAdapter


@dataclass(frozen=True)
class RunModels:
    """The models of a run's agents. `model` is that of agents without their own: where it is, or an object."""

    model: "str | GivenModel"
    team: Team  # of the agents that run
    # By name, where each is: actors have another working directory, and this process may change its own.
    places: Mapping[str, str]
    translation: str | None = None  # where trained maps of thoughts are; None: the map that needs no training
    # What configurations of models have said: a server asks at every request. Shared with the models of other agents.
    _known: dict[tuple[Callable[..., Any], AgentModel], Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, config: RunConfig, topology: Topology, given: "GivenModel | None" = None) -> "RunModels":
        """Return the models of the agents of `topology`; `given` is an object in place of `config.model`. Nothing is
        checked."""
        team = team_of(config, topology)
        names = {config.model, *config.models.values(), *(one.name for one in team.models)}
        places = {name: absolute_name(name) for name in names}
        translation = config.translation and str(Path(config.translation).absolute())
        return cls(given or places[config.model], team, places, translation)

    def of_agents(self, config: RunConfig, topology: Topology) -> "RunModels":
        """Return the models of the agents of another topology."""
        return replace(self, team=team_of(config, topology))

    def check(self, config: RunConfig, topology: Topology) -> None:
        """Raise ModelError for a model that does not exist or cannot collaborate. Raise ConfigError for an object
        together with models with names, for a revision of a model whose memory is translated, for a part of such
        memory (`keep`), and for a translation that is not between these models."""
        if not isinstance(self.model, str):
            self.model.check_run(runtime=config.runtime, tp=config.tp, dtype=config.dtype, revision=config.revision)
            if self.others or self.first.name != config.model:
                expected = "the model is an object, whose memory no other model reads: save it, and give its folder"
                raise ConfigError("models", _given(config), expected)
        else:
            check_name(config.model, config.revision)
            for agent, one in self.team.by_agent.items():
                if one.name != config.model:
                    _check_own_model(agent, one.name)
        self._check_links(config, topology)

    def _check_links(self, config: RunConfig, topology: Topology) -> None:
        """Raise ConfigError unless each agent can read what those with other models hand over: whole prompts."""
        checked: set[tuple[str, str]] = set()
        for agent, own in self.team.by_agent.items():
            for writer, name in self.team.foreign_to(topology, agent).items():
                if self.team.by_agent[writer].revision:
                    expected = f"{agent} translates the memory of {writer} from the newest {name}"
                    raise ConfigError("revision", config.revision, f"{expected}: leave it out, or give a folder")
                share = topology.by_name[writer].keep
                if (share := config.keep if share is None else share) < 1:
                    expected = f"{agent} has another model than {writer} and computes whole prompts: leave it out"
                    raise ConfigError("keep", share, f"{expected}, or give both one model")
                if name != own.name and (name, own.name) not in checked:
                    _check_translatable((writer, name), (agent, own.name))
                    link = f"{agent} with {own.name} reads {writer} with {name}"
                    self._adapter(name, own, link)
                    checked.add((name, own.name))

    @property
    def first(self) -> AgentModel:
        """The model of the first agent."""
        return self.team.models[0]

    @cached_property
    def others(self) -> Mapping[str, AgentModel]:
        """The agents with another model than the first agent's."""
        return {agent: one for agent, one in self.team.by_agent.items() if one != self.first}

    @property
    def has_names(self) -> bool:
        """Whether no model is an object."""
        return isinstance(self.model, str)

    def place_of(self, one: AgentModel) -> "str | GivenModel":
        """Return where an agent's model is, or the object."""
        return self.places[one.name] if isinstance(self.model, str) else self.model

    def loading(self, one: AgentModel, topology: Topology) -> dict[str, Any]:
        """Return the arguments of `load_runner`, besides the model, that say what is loaded for agents with it. Raises
        ConfigError for a translation that is not between these models."""
        reads_from = self.team.read_by(topology, one)
        return {
            "dtype": one.dtype,
            "revision": one.revision or None,
            "reads_from": {name: self.places[name] for name in reads_from},
            "adapters": {name: found for name in reads_from if (found := self._adapter(name, one)) is not None},
        }

    def pinned_translation(self, topology: Topology) -> dict[str, str]:
        """Return what a resumed run must share of the trained maps, in place of the names of their files. Raises
        ConfigError."""
        found = {
            f"{name} to {one.name}": adapter.digest
            for one in self.team.models
            for name, adapter in self.loading(one, topology)["adapters"].items()
        }
        return {"translation": json.dumps(found, sort_keys=True)} if found else {}

    def _adapter(self, writer: str, reader: AgentModel, link: str = "") -> "ThoughtAdapter | None":
        """Return the trained map from the model of this name to another; None without `translation`, and for the same
        model in another dtype, which needs none. Raises ConfigError, which names `link`, if none fits."""
        if self.translation is None or writer == reader.name:
            return None
        from latentmas_ray.models.translation import choose_adapter, load_adapters  # needs transformers

        adapters = load_adapters(self.translation)
        link = link or f"{reader.name} reads {writer}"
        places = (self.places[writer], self.places[reader.name])
        return choose_adapter(adapters, self.translation, *places, link, reader.revision or None)

    def dims(self, one: AgentModel) -> ModelDims:
        """Return the sizes of an agent's model. Raises ModelError."""
        return dims_of_model(self.place_of(one), one.revision or None).in_dtype(one.dtype)

    def chat(self, one: AgentModel) -> "ChatTokenizer":
        """Load the tokenizer of an agent's model. Raises ModelError."""
        from latentmas_ray.models.chat import ChatTokenizer  # transformers takes seconds
        from latentmas_ray.models.load import load_tokenizer

        place = self.place_of(one)
        if isinstance(place, str):
            return ChatTokenizer(load_tokenizer(place, one.revision or None), one.name)
        return ChatTokenizer(place.tokenizer, one.name)

    def other_dims(self) -> dict[str, ModelDims]:
        """Return the sizes of the models of `others`. Raises ModelError."""
        return {agent: self.dims(one) for agent, one in self.others.items()}

    def positions(self) -> dict[str, int | None]:
        """Return the positions of each agent's model. Raises ModelError."""
        if not isinstance(self.model, str):
            return dict.fromkeys(self.team.by_agent, self.model.max_positions)
        known = {one: self._fact(known_positions, one) for one in self.team.models}
        return {agent: known[one] for agent, one in self.team.by_agent.items()}

    def window_of(self, agent: str) -> int | None:
        """Return the largest sliding window of an agent's model, if all of its layers have one; else None. Raises
        ModelError."""
        if not isinstance(self.model, str):
            return self.model.window
        window: int | None = self._fact(known_window, self.team.by_agent[agent])
        return window

    def with_states(self) -> frozenset[str]:
        """Return the agents whose models have layers that keep states. Raises ModelError."""
        if not isinstance(self.model, str):
            return frozenset(self.team.by_agent) if self.model.keeps_states else frozenset()
        known = {one: self._fact(known_states, one) for one in self.team.models}
        return frozenset(agent for agent, one in self.team.by_agent.items() if known[one])

    def _fact(self, read: Callable[[str, str | None], Any], one: AgentModel) -> Any:
        """Return what `read` says of an agent's model, which it reads from a file once: transformers takes
        milliseconds."""
        if (read, one) not in self._known:
            self._known[read, one] = read(self.places[one.name], one.revision or None)
        return self._known[read, one]


def team_of(config: RunConfig, topology: Topology) -> Team:
    """Return the models of the agents of a topology."""
    return Team.of(
        topology,
        model=config.model,
        models=config.models,
        dtype=config.dtype,
        revision=config.revision,
        translation=config.translation,
    )


def dims_of_model(model: "str | GivenModel", revision: str | None) -> ModelDims:
    """Return the sizes of a model. Raises ModelError."""
    if not isinstance(model, str):
        return model.dims()
    known = None
    if revision is None:
        try:
            known = known_dims(model)
        except ModelError:  # of a folder whose sizes have other names, or of a broken one, which is reported below
            known = None
    if known is not None and known.caches_alike:
        return known
    from latentmas_ray.models.abilities.cache_dims import cache_dims  # needs transformers, which takes seconds

    return cache_dims(model, revision, stored_parameters=None if known is None else known.stored_parameters)


def _check_own_model(agent: str, model: str) -> None:
    try:
        check_name(model, None)
    except ModelError as error:
        raise ModelError("models", f"{agent}={error.value}", error.expected) from error


def _check_translatable(writer: tuple[str, str], reader: tuple[str, str]) -> None:
    """Raise ConfigError unless the memory of a writer (agent, model) can be translated for a reader."""
    from latentmas_ray.models.translation import check_translatable  # needs transformers, which takes seconds

    try:
        check_translatable(writer[1], reader[1])
    except ModelError as error:
        link = f"{writer[0]}={writer[1]},{reader[0]}={reader[1]}"
        raise ConfigError(
            "models", link, f"{reader[0]} cannot read the memory of {writer[0]}: {error.expected}"
        ) from error


def _given(config: RunConfig) -> str:
    return ",".join(f"{agent}={model}" for agent, model in config.models.items())
