"""Parsers and checks of single values: devices, replicas, output folders."""

import re
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from latentmas_ray.config.choices import ActorLink, TransportName
from latentmas_ray.errors import ConfigError

_MODELS_FORM = "it must be one model for each agent that it names, as in planner=tiny,judger=FOLDER"
DEVICE_FORM = "it must be auto, cpu, cuda or cuda:N with the number of a GPU"
MAX_REPLICAS = 1024
_REPLICAS_FORM = (
    f"it must be a number from 1 to {MAX_REPLICAS}, one for each agent, as in planner=2,judger=6, or auto; agents "
    "joined by + share GPUs, as in planner+critic=1,judger=7"
)
_AUTO_ALONE = "auto chooses the replicas of all agents: give auto alone, or numbers"
Replicas = int | dict[str, int] | Literal["auto"]
_LINKS: tuple[ActorLink, ...] = get_args(ActorLink)
_TRANSPORTS: tuple[TransportName, ...] = get_args(TransportName)
_TRANSPORT_FORM = (
    f"it must be one of {', '.join(map(repr, _TRANSPORTS))}, or one for each link, as in "
    "same_node=shared_memory,cross_node=tcp"
)
_DEVICE = re.compile(r"auto|cpu|cuda(:\d{1,4})?", re.ASCII)


def is_url(output: str) -> bool:
    """Return whether an output folder is a URL, such as s3://bucket/folder."""
    return "://" in output


def is_device(text: str) -> bool:
    """Return whether `text` has the form of a device. `models` checks whether this machine has it."""
    return _DEVICE.fullmatch(text) is not None


def parse_replicas(value: object) -> Replicas:
    """Parse the number of replicas, for all agents or by agent; text looks like `3` or `planner=2,judger=6`. Agents
    that are joined by `+` share devices. `auto` stays as it is.

    Raises ValueError.
    """
    if isinstance(value, str) and value.strip() == "auto":
        return "auto"
    if isinstance(value, str) and "=" in value:
        pairs = [part.partition("=") for part in value.split(",")]
        if any(name.strip() == "auto" for name, _, _ in pairs):
            raise ValueError(_AUTO_ALONE)
        names = ["+".join(name.strip() for name in names.split("+")) for names, _, _ in pairs]
        if len(set(names)) < len(names):
            raise ValueError(f"{_REPLICAS_FORM}; each agent once")
        value = {name: count for name, (_, _, count) in zip(names, pairs, strict=True)}
    if isinstance(value, Mapping):
        if not value or not all(isinstance(names, str) and all(names.split("+")) for names in value):
            raise ValueError(_REPLICAS_FORM)
        return {name: _count(number) for name, number in value.items()}
    return _count(value)


def parse_models(value: object) -> dict[str, str]:
    """Parse the models of agents; text looks like `planner=tiny,judger=/models/small`. Raises ValueError."""
    if isinstance(value, str):
        pairs = [[text.strip() for text in part.partition("=")[::2]] for part in value.split(",")]
        if len({agent for agent, _ in pairs}) < len(pairs):
            raise ValueError(f"{_MODELS_FORM}; each agent once")
        value = dict(pairs)
    if not isinstance(value, Mapping):
        raise ValueError(_MODELS_FORM)
    if not all(isinstance(text, str) and text.strip() for item in value.items() for text in item):
        raise ValueError(_MODELS_FORM)
    return {agent: model.strip() for agent, model in value.items()}


def describe_models(model: str, models: Mapping[str, str]) -> str:
    """Return all models of a run in one text: `model`, and those of the agents that have another."""
    return model if not models else f"{model} ({', '.join(f'{agent}: {one}' for agent, one in models.items())})"


def parse_transport(value: object) -> TransportName | dict[ActorLink, TransportName]:
    """Parse a transport, for all links or by link; text looks like `tcp` or `same_node=nccl,cross_node=object_store`.
    Raises ValueError."""
    if isinstance(value, str) and "=" in value:
        pairs = [[text.strip() for text in part.partition("=")[::2]] for part in value.split(",")]
        if len({link for link, _ in pairs}) < len(pairs):
            raise ValueError(f"{_TRANSPORT_FORM}; each link once")
        value = dict(pairs)
    if isinstance(value, Mapping):
        between = [name for name in _TRANSPORTS if name != "loopback"]
        if not value or not set(value) <= set(_LINKS) or not all(name in between for name in value.values()):
            raise ValueError(f"{_TRANSPORT_FORM}; the links are {', '.join(_LINKS)}")
        return dict(value)
    if value not in _TRANSPORTS:
        raise ValueError(_TRANSPORT_FORM)
    return value


def format_transport(transport: TransportName | Mapping[ActorLink, TransportName]) -> str:
    """Return the text from which `parse_transport` gets this value."""
    if isinstance(transport, str):
        return transport
    return ",".join(f"{link}={name}" for link, name in transport.items())


def replicas_by_agent(replicas: int | Mapping[str, int] | Literal["auto"], agents: Sequence[str]) -> dict[str, int]:
    """Return the number of replicas of each agent, 1 if it is not named. Raises ConfigError for an unknown agent, and
    for `auto`, which a search must have replaced."""
    if replicas == "auto":
        raise ConfigError("replicas", "auto", "it must be numbers here")
    if isinstance(replicas, int):
        return dict.fromkeys(agents, replicas)
    counts = count_replicas(replicas)
    if unknown := [name for name in counts if name not in agents]:
        text = format_replicas(replicas)
        raise ConfigError("replicas", text, f"there is no agent {unknown[0]!r}; the agents are {', '.join(agents)}")
    return {name: counts.get(name, 1) for name in agents}


def count_replicas(replicas: Mapping[str, int]) -> dict[str, int]:
    """Return the number of replicas of each agent that is named: those of all sets of agents with it."""
    counts: dict[str, int] = {}
    for names, count in replicas.items():
        for name in names.split("+"):
            counts[name] = counts.get(name, 0) + count
    return counts


def devices_by_agents(replicas: Replicas, agents: Sequence[str]) -> dict[tuple[str, ...], int] | None:
    """Return how many devices host which agents, if `replicas` says so: if it joins agents by `+`. Agents that it does
    not name have a device of their own. Raises ConfigError for an unknown agent, and for agents that are named twice.
    """
    if not isinstance(replicas, Mapping) or not any("+" in names for names in replicas):
        return None
    counts = replicas_by_agent(replicas, agents)
    found: dict[tuple[str, ...], int] = {}
    for names, count in replicas.items():
        chosen = names.split("+")
        contents = tuple(agent for agent in agents if agent in chosen)
        if len(contents) < len(chosen) or contents in found:
            raise ConfigError("replicas", format_replicas(replicas), "each agent once in a set, and each set once")
        found[contents] = count
    return found | {(agent,): 1 for agent in counts if not any(agent in contents for contents in found)}


def divide_replicas(replicas: Replicas, number: int, of: int) -> Replicas:
    """Return the replicas of one of several drivers (`number` from 0), which `check_drivers` has allowed."""

    def part(count: int) -> int:
        return count // of + (number < count % of)

    if isinstance(replicas, Mapping):
        return {names: part(count) for names, count in replicas.items()}
    return replicas if replicas == "auto" else part(replicas)


def check_drivers(replicas: Replicas, drivers: int, agents: Sequence[str]) -> None:
    """Raise ConfigError if not every driver can have a replica of every agent, or of every set of agents that share
    GPUs."""
    if drivers == 1 or replicas == "auto":
        return
    named = dict(replicas) if isinstance(replicas, Mapping) else {}
    counts = {**replicas_by_agent(replicas, agents), **named}
    if few := [name for name, count in counts.items() if count < drivers]:
        expected = f"each of {drivers} drivers has replicas of its own: {few[0]} needs at least {drivers}; or give auto"
        raise ConfigError("replicas", format_replicas(replicas), expected)


def format_replicas(replicas: int | str | Mapping[str, int]) -> str:
    """Return the text from which `parse_replicas` gets this value."""
    if isinstance(replicas, Mapping):
        return ",".join(f"{names}={count}" for names, count in replicas.items())
    return str(replicas)


def most_by_agent(
    max_replicas: Replicas | None, asked: Mapping[str, int], *, is_colocated: bool = False
) -> dict[str, int | None]:
    """Return how many replicas each agent may come to have where that is not the number that is `asked` for; None: any
    number. Raises ConfigError for fewer than are asked for, and for an unknown agent."""
    if max_replicas is None:
        return {}
    if max_replicas == "auto":
        return dict.fromkeys(asked)
    counts = dict.fromkeys(asked, max_replicas) if isinstance(max_replicas, int) else dict(max_replicas)
    text = ",".join(f"{name}={count}" for name, count in counts.items())
    if unknown := [name for name in counts if name not in asked]:
        agents = ", ".join(asked)
        raise ConfigError("max_replicas", text, f"there is no agent {unknown[0]!r}; the agents are {agents}")
    for name, count in counts.items():
        if count < asked[name]:
            why = f"{name} starts with {asked[name]} (replicas); it must be at least as many, or auto"
            raise ConfigError("max_replicas", text if isinstance(max_replicas, dict) else str(max_replicas), why)
    if is_colocated and len({counts.get(name, count) for name, count in asked.items()}) > 1:
        raise ConfigError("max_replicas", text, "colocated agents share their actors; it must be one number")
    return dict(counts)


def least_by_agent(min_replicas: int | Mapping[str, int] | None, asked: Mapping[str, int]) -> dict[str, int]:
    """Return with how many replicas each agent may start where that is not the number that is `asked` for. Raises
    ConfigError for more than are asked for, and for an unknown agent."""
    if min_replicas is None:
        return {}
    if isinstance(min_replicas, int):
        if min_replicas > max(asked.values()):
            why = f"no agent has more than {max(asked.values())} (replicas)"
            raise ConfigError("min_replicas", str(min_replicas), why)
        return {name: min(count, min_replicas) for name, count in asked.items()}
    text = ",".join(f"{name}={count}" for name, count in min_replicas.items())
    for name, count in min_replicas.items():
        if name not in asked:
            raise ConfigError("min_replicas", text, f"there is no agent {name!r}; the agents are {', '.join(asked)}")
        if count > asked[name]:
            raise ConfigError("min_replicas", text, f"{name} has {asked[name]} (replicas); it must be at most as many")
    return dict(min_replicas)


def _count(value: object) -> int:
    if isinstance(value, str) and value.strip() == "auto":
        raise ValueError(_AUTO_ALONE)
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit() and len(value.strip()) <= 6:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_REPLICAS:
        raise ValueError(_REPLICAS_FORM)
    return value
