"""Which engine writes the text of each agent, and why. Latent agents think with transformers."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from latentmas_ray.config import RunConfig
from latentmas_ray.errors import ConfigError, InputError, TopologyError
from latentmas_ray.placement.model_dims import is_published
from latentmas_ray.topology import Agent, Topology
from latentmas_ray.vllm.families import SAME_IN_VLLM
from latentmas_ray.vllm.installed import HOW_TO_INSTALL, find_vllm, obstacle

ASKED_FOR = "asked for"


@dataclass(frozen=True)
class EngineChoice:
    """The engine of an agent that writes text, and why it has it."""

    engine: Literal["transformers", "vllm"]
    why: str


def check_engines(config: RunConfig, topology: Topology, *, has_name: bool) -> None:
    """Raise ConfigError, or TopologyError for an agent's own engine, if an agent is to write with vLLM and cannot.

    `has_name`: the model is a name, and no object.
    """
    for agent in _writers(topology):
        if _wanted(config, agent) == "vllm" and (found := _obstacle(config, topology, has_name)) is not None:
            raise _refusal(topology, agent, found[1])


def choose_engines(
    config: RunConfig, topology: Topology, *, has_name: bool, has_gpu: bool
) -> Mapping[str, EngineChoice]:
    """Return the engine of each agent that writes text, in topological order.

    `has_gpu`: the run can use GPUs. What is asked for is taken as it is, see `check_engines`. Raises ModelError if the
    model's configuration cannot be read.
    """
    automatic: EngineChoice | None = None
    choices = {}
    for agent in _writers(topology):
        wanted = _wanted(config, agent)
        if wanted == "auto":
            automatic = automatic or _choose(config, topology, has_name=has_name, has_gpu=has_gpu)
            choices[agent.name] = automatic
        else:
            choices[agent.name] = EngineChoice(wanted, ASKED_FOR)
    return choices


def apart(choices: Mapping[str, EngineChoice]) -> frozenset[str]:
    """Return the agents that need an actor of their own: vLLM changes the process that it runs in."""
    return frozenset(name for name, choice in choices.items() if choice.engine == "vllm")


def is_chain(config: RunConfig, topology: Topology) -> bool:
    """Return whether the memory of every agent is one causal sequence of all that the agents before it were fed."""
    hands_over_all = all(agent.thinks == "text" or agent.hands_over == "all" for agent in topology.agents)
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
    texts = [f"{choice.engine} for {', '.join(names)} ({choice.why})" for choice, names in by_choice.items()]
    thinkers = [agent.name for agent in topology.agents if agent.name not in choices]
    return ", ".join(
        [f"engine {texts[0]}", *texts[1:], *([f"transformers for {', '.join(thinkers)}"] if thinkers else [])]
    )


def _writers(topology: Topology) -> Iterator[Agent]:
    return (agent for agent in topology.agents if agent.thinks == "text")


def _wanted(config: RunConfig, agent: Agent) -> Literal["auto", "transformers", "vllm"]:
    return agent.engine or config.engine


def _obstacle(config: RunConfig, topology: Topology, has_name: bool) -> tuple[str, str] | None:
    """Return why no agent of this run can write with vLLM, and what would be right; None if nothing is wrong."""
    if config.runtime == "local":
        return "runtime local", "with runtime local it must be transformers: vLLM needs a process of its own"
    if config.placement == "colocate":
        return "placement colocate", "with placement colocate it must be transformers: vLLM needs an actor of its own"
    if not has_name:
        why = "the model is an object"
        return why, f"it must be transformers, as {why}; or give the name of a folder where it is saved"
    if config.trace:
        return (
            "traces need hidden states",
            f"with trace {config.trace} it must be transformers: traces need hidden states",
        )
    if config.transfer == "recompute" and not is_chain(config, topology):
        why = "transfer recompute"
        return (
            why,
            f"with {why} it must be transformers: vLLM recomputes a chain of agents that hand over all, no other",
        )
    if (problem := obstacle()) is not None:
        return problem, f"{problem}: {HOW_TO_INSTALL}; or use transformers"
    build = find_vllm()
    if build is not None and config.device in ("cpu", "cuda") and build.is_for_cpus != (config.device == "cpu"):
        kind = "CPUs" if build.is_for_cpus else "GPUs"
        why = f"device {config.device}"
        return why, f"with {why} it must be transformers: the build of vLLM that is installed is for {kind}"
    return None


def _choose(config: RunConfig, topology: Topology, *, has_name: bool, has_gpu: bool) -> EngineChoice:
    """Return what `auto` means in this run."""
    if (found := _obstacle(config, topology, has_name)) is not None:
        return EngineChoice("transformers", found[0])
    if not has_gpu:
        return EngineChoice("transformers", "there is no GPU for vLLM")
    if (build := find_vllm()) is not None and build.is_for_cpus:
        return EngineChoice("transformers", "vLLM is installed for CPUs alone")
    if (why := _family_obstacle(config.model, config.revision)) is not None:
        return EngineChoice("transformers", why)
    return EngineChoice("vllm", "it is installed, and there is a GPU")


def _family_obstacle(name: str, revision: str | None) -> str | None:
    """Return why `auto` does not read this model with vLLM; None if it does. Raises ModelError."""
    if revision is None and is_published(name):
        return None
    from latentmas_ray.models.load import load_config  # needs transformers, which takes seconds to import

    model = load_config(name, revision)
    architecture = next(iter(getattr(model, "architectures", None) or ()), type(model).__name__)
    if architecture not in SAME_IN_VLLM:
        return f"{architecture} is not known to be the same in vLLM"
    return "its weights are quantized" if getattr(model, "quantization_config", None) is not None else None


def _refusal(topology: Topology, agent: Agent, expected: str) -> InputError:
    if agent.engine is None:
        return ConfigError("engine", "vllm", expected)
    return TopologyError(topology.at(f"agents.{agent.name}.engine"), "vllm", expected)
