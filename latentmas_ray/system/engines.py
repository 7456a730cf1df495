"""Which engine writes the text of each agent, and why. Latent agents think with transformers."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from latentmas_ray.config import RunConfig
from latentmas_ray.errors import ConfigError, InputError, TopologyError
from latentmas_ray.placement.model_dims import is_published
from latentmas_ray.system.team.run_models import team_of
from latentmas_ray.topology import Agent, AgentModel, Topology
from latentmas_ray.vllm.families import SAME_IN_VLLM
from latentmas_ray.vllm.installed import HOW_TO_INSTALL, find_vllm, obstacle

ASKED_FOR = "asked for"


@dataclass(frozen=True)
class EngineChoice:
    """The engine of an agent that writes text, and why it has it."""

    engine: Literal["transformers", "vllm"]
    why: str


@dataclass(frozen=True)
class _Obstacle:
    """Why agents cannot write with vLLM, and what would be right."""

    why: str
    expected: str


def check_engines(config: RunConfig, topology: Topology, *, has_name: bool, runs_here: bool = True) -> None:
    """Raise ConfigError, or TopologyError for an agent's own engine, if an agent is to write with vLLM and cannot;
    ModelError if the model's configuration cannot be read.

    `has_name`: the model is a name, and no object. `runs_here`: with what is installed here; a plan for other machines
    only asks whether the settings and the model allow it.
    """
    agents = [agent for agent in _text_agents(topology) if _wanted(config, agent) == "vllm"]
    for agent in agents:
        found = _setting_obstacle(config, topology, agent, has_name) or _weights_obstacle(config, topology, agent)
        if found is None and runs_here:
            found = _installation_obstacle(config)
        if found is not None:
            raise _refusal(topology, agent, found.expected)


def choose_engines(
    config: RunConfig, topology: Topology, *, has_name: bool, has_gpu: bool
) -> Mapping[str, EngineChoice]:
    """Return the engine of each agent that writes text, in topological order.

    `has_gpu`: the run can use GPUs. What is asked for is taken as it is, see `check_engines`. Raises ModelError if the
    model's configuration cannot be read.
    """
    choices = {}
    for agent in _text_agents(topology):
        wanted = _wanted(config, agent)
        if wanted == "auto":
            choices[agent.name] = _choose(config, topology, agent, has_name=has_name, has_gpu=has_gpu)
        else:
            untried = _family_obstacle(config, topology, agent) if wanted == "vllm" and has_name else None
            why = ASKED_FOR if untried is None else f"{ASKED_FOR}; {untried}: loading it compares them"
            choices[agent.name] = EngineChoice(wanted, why)
    return choices


def apart(choices: Mapping[str, EngineChoice]) -> frozenset[str]:
    """Return the agents that need an actor of their own: vLLM changes the process that it runs in."""
    return frozenset(name for name, choice in choices.items() if choice.engine == "vllm")


def is_chain(config: RunConfig, topology: Topology) -> bool:
    """Return whether the memory of every agent is one causal sequence of all that the agents before it were fed."""
    hands_over_all = all(
        agent.thinks == "text"
        or (agent.hands_over == "all" and (config.keep if agent.keep is None else agent.keep) == 1.0)
        for agent in topology.agents
    )
    return (
        hands_over_all and config.guard in ("off", "warn") and all(len(agent.reads) <= 1 for agent in topology.agents)
    )


def describe_engines(topology: Topology, choices: Mapping[str, EngineChoice]) -> str:
    """Return which engine each agent has, and why, for the log."""
    by_choice: dict[EngineChoice, list[str]] = {}
    for name, choice in choices.items():
        by_choice.setdefault(choice, []).append(name)
    if len(by_choice) == 1 and next(iter(by_choice)).engine == "transformers":
        return f"engine transformers ({next(iter(by_choice)).why})"
    described = [f"{choice.engine} for {', '.join(names)} ({choice.why})" for choice, names in by_choice.items()]
    latent_agents = [agent.name for agent in topology.agents if agent.name not in choices]
    if latent_agents:
        described.append(f"transformers for {', '.join(latent_agents)}")
    return f"engine {', '.join(described)}"


def _text_agents(topology: Topology) -> Iterator[Agent]:
    return (agent for agent in topology.agents if agent.thinks == "text")


def _wanted(config: RunConfig, agent: Agent) -> Literal["auto", "transformers", "vllm"]:
    return agent.engine or config.engine


def _setting_obstacle(config: RunConfig, topology: Topology, agent: Agent, has_name: bool) -> _Obstacle | None:
    """Return what in the settings excludes vLLM for an agent, wherever the run would be; None if nothing does."""
    if config.runtime == "local":
        return _excluded("runtime local", "vLLM needs a process of its own")
    if config.placement == "colocate":
        return _excluded("placement colocate", "vLLM needs an actor of its own")
    if not has_name:
        why = "the model is an object"
        return _Obstacle(why, f"it must be transformers, as {why}; or give the name of a folder where it is saved")
    if config.trace:
        why = "traces need hidden states"
        return _Obstacle(why, f"with trace {config.trace} it must be transformers: {why}")
    for writer, model in team_of(config, topology).foreign_to(topology, agent.name).items():
        why = f"{agent.name} reads memory of {writer}, whose model is {model}, and vLLM does not recompute it"
        return _Obstacle(why, f"it must be transformers: {why}")
    if config.transfer == "recompute" and not is_chain(config, topology):
        return _excluded("transfer recompute", "vLLM recomputes a chain of agents that hand over all, no other")
    return None


def _installation_obstacle(config: RunConfig) -> _Obstacle | None:
    """Return why the vLLM that is installed here cannot write; None if it can."""
    if (problem := obstacle()) is not None:
        return _Obstacle(problem, f"{problem}: {HOW_TO_INSTALL}; or use transformers")
    build = find_vllm()
    if build is not None and config.device in ("cpu", "cuda") and build.is_for_cpus != (config.device == "cpu"):
        kind = "CPUs" if build.is_for_cpus else "GPUs"
        return _excluded(f"device {config.device}", f"the build of vLLM that is installed is for {kind}")
    return None


def _excluded(setting: str, why: str) -> _Obstacle:
    return _Obstacle(setting, f"with {setting} it must be transformers: {why}")


def _choose(config: RunConfig, topology: Topology, agent: Agent, *, has_name: bool, has_gpu: bool) -> EngineChoice:
    """Return what `auto` means for an agent."""
    found = _setting_obstacle(config, topology, agent, has_name) or _installation_obstacle(config)
    if found is not None:
        return EngineChoice("transformers", found.why)
    if not has_gpu:
        return EngineChoice("transformers", "there is no GPU for vLLM")
    if (build := find_vllm()) is not None and build.is_for_cpus:
        return EngineChoice("transformers", "vLLM is installed for CPUs alone")
    if (why := _family_obstacle(config, topology, agent)) is not None:
        return EngineChoice("transformers", why)
    if (found := _weights_obstacle(config, topology, agent)) is not None:
        return EngineChoice("transformers", found.why)
    return EngineChoice("vllm", "it is installed, and there is a GPU")


def _family_obstacle(config: RunConfig, topology: Topology, agent: Agent) -> str | None:
    """Return why `auto` does not read an agent's model with vLLM; None if it does. Raises ModelError."""
    if (model := _configuration(team_of(config, topology).by_agent[agent.name])) is None:
        return None
    from latentmas_ray.models.kv_spec import may_have_windows  # needs transformers, which has been imported for `model`

    architecture = next(iter(getattr(model, "architectures", None) or ()), type(model).__name__)
    if architecture not in SAME_IN_VLLM:
        return f"{architecture} is not known to be the same in vLLM"
    return "vLLM reads no memory of a model with sliding windows" if may_have_windows(model) else None


def _weights_obstacle(config: RunConfig, topology: Topology, agent: Agent) -> _Obstacle | None:
    """Return why vLLM cannot read an agent's weights as our own engine does; None if it can. Raises ModelError."""
    own = team_of(config, topology).by_agent[agent.name]
    model = _configuration(own)
    if model is None or getattr(model, "quantization_config", None) is None:
        return None
    why = "its weights are quantized"
    return _Obstacle(why, f"with model {own.name} it must be transformers: {why}")


def _configuration(model: AgentModel) -> Any:
    """Return the configuration of a model; None for a published one of a family that both engines read."""
    if not model.revision and is_published(model.name):
        return None
    from latentmas_ray.models.load import load_config  # needs transformers, which takes seconds to import

    return load_config(model.name, model.revision or None)


def _refusal(topology: Topology, agent: Agent, expected: str) -> InputError:
    if agent.engine is None:
        return ConfigError("engine", "vllm", expected)
    return TopologyError(topology.at(f"agents.{agent.name}.engine"), "vllm", expected)
