"""The run, as one frozen validated model. Imports neither torch nor ray.

Every field is a flag of `latentmas eval` and a keyword of `LatentMAS`; the defaults here are the only ones.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from latentmas_ray.errors import ConfigError
from latentmas_ray.units import parse_bytes

Method = Literal["single", "text", "latent"]
MemoryName = Literal["matched", "deranged", "prompt-only", "latent-only", "none"]
RuntimeName = Literal["ray", "local"]
DTypeName = Literal["auto", "float32", "bfloat16"]
CodecName = Literal["none", "bf16", "int8", "int4"]
GuardName = Literal["off", "warn", "drop", "text"]
HandoverMode = Literal["kv", "recipe", "auto"]
PlacementName = Literal["auto", "pack", "spread", "colocate"]
TransportName = Literal["auto", "object_store", "shared_memory", "tcp", "gloo", "nccl", "cuda_ipc", "nixl", "loopback"]

# What may differ between a run and its resumption: where and how it runs, never what it computes.
_FREE_ON_RESUME = frozenset(
    {
        "output",
        "resume",
        "runtime",
        "address",
        "placement",
        "replicas",
        "tp",
        "turn_timeout",
        "transport",
        "handover",
        "overlap",
        "memory_in_flight",
        "trace",
        "save_memory",
    }
)
EMBEDDED_MODEL = "tiny"
MAX_NEW_TOKENS = 256  # of tasks that have no bound of their own
DEVICE_FORM = "it must be auto, cpu, cuda or cuda:N with the number of a GPU"
MAX_REPLICAS = 1024
_REPLICAS_FORM = f"it must be a number from 1 to {MAX_REPLICAS}, or one for each agent, as in planner=2,judger=6"
_DEVICE = re.compile(r"auto|cpu|cuda(:\d{1,4})?", re.ASCII)

# How pydantic begins its messages, where ours begin "it must".
_SHOULD = re.compile(r"^(Input|String) should ")


class RunConfig(BaseModel):
    """What is run, on which model, and where. Derived values are properties."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)

    model: str = Field(default=EMBEDDED_MODEL, min_length=1, description="tiny, a model folder, or a hub id")
    task: str = Field(
        default_factory=lambda fields: "chain" if fields.get("model") == EMBEDDED_MODEL else "sample",
        min_length=1,
        description="one of latentmas tasks, or a FILE.jsonl[.gz] of questions; without it chain, the task that tiny "
        "was trained for, and sample with any other model",
    )
    method: Method = Field(
        default="latent", description="one agent alone, agents that talk in text, or in latent space"
    )
    topology: str = Field(default="sequential", min_length=1, description="built-in topology, or a FILE.yaml")
    revision: str | None = Field(default=None, min_length=1, description="branch, tag or commit of a hub model")
    memory: MemoryName = Field(
        default="matched", description="a control: another question's memory, a part of it, or none"
    )
    latent_steps: int = Field(default=40, ge=0, le=100_000, description="latent thoughts per latent agent (m)")
    realign: bool = Field(default=True, description="map hidden states to the input embeddings by W_a; off: W_a = I")
    batch_size: int = Field(default=8, ge=1, le=4096, description="questions in one batch")
    dtype: DTypeName = Field(default="auto", description="auto: the one that the model's weights are stored in")
    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:N; auto takes a GPU where there is one")
    temperature: float = Field(default=0.6, ge=0.0, le=10.0, description="0 decodes greedily")
    top_p: float = Field(default=0.95, gt=0.0, le=1.0, description="nucleus of the sampled distribution")
    max_new_tokens: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description=f"bound on decoded tokens per agent and question; without it the task's own, else {MAX_NEW_TOKENS}",
    )
    seed: int = Field(default=42, ge=0, lt=2**63, description="seed of every question's own random stream")
    limit: int | None = Field(default=None, ge=1, description="only the first N questions")
    replicas: int | dict[str, int] = Field(default=1, description="copies of every agent's actor, or of some agents'")
    placement: PlacementName = Field(
        default="auto",
        description="agents that hand over on one node, over all nodes, or as one actor; auto: pack if it fits",
    )
    tp: int = Field(default=1, ge=1, le=1024, description="GPUs of one node that each replica's model is divided over")
    transport: TransportName = Field(default="auto", description="what moves memory between actors")
    handover: HandoverMode = Field(default="kv", description="send KV, or the recipe from which its readers compute it")
    codec: CodecName = Field(default="none", description="send KV in fewer bytes, with a loss that the results tell")
    overlap: bool = Field(default=True, description="a prompt's memory travels while its agent still thinks")
    guard: GuardName = Field(
        default="off",
        description="about thoughts with an alarm: tell it, do not hand them over, or have text written instead",
    )
    trace: int = Field(default=0, ge=0, description="keep what every agent did and thought on the first N questions")
    runtime: RuntimeName = Field(default="ray", description="ray: actors on a cluster; local: one process, no Ray")
    address: str | None = Field(
        default=None, min_length=1, description="address of a running Ray cluster; without it one is started"
    )
    memory_in_flight: str = Field(default="auto", description="bound on working memory held at once, for example 4GB")
    turn_timeout: float = Field(
        default=1800.0, gt=0, le=1e6, description="seconds after which a turn that waits for nothing is taken to hang"
    )
    save_memory: str | None = Field(
        default=None, min_length=1, description="folder that gets the working memory of every question, a file each"
    )
    output: str | None = Field(
        default=None, min_length=1, description="folder or URL for config.yaml, results.jsonl, summary.json"
    )
    resume: bool = Field(default=False, description="go on from the results already in the output folder")

    @field_validator("latent_steps", "batch_size", "max_new_tokens", "seed", "limit", "tp", "trace", mode="before")
    @classmethod
    def _refuse_bool(cls, value: object) -> object:
        if isinstance(value, bool):
            raise ValueError("it must be a number, not true or false")
        return value

    @field_validator("replicas", mode="before")
    @classmethod
    def _parse_replicas(cls, value: object) -> int | dict[str, int]:
        return parse_replicas(value)

    @field_validator("memory_in_flight")
    @classmethod
    def _check_size(cls, text: str) -> str:
        try:
            good = text == "auto" or parse_bytes(text) >= 1
        except ValueError:
            good = False
        if not good:
            raise ValueError("it must be auto or a size of at least one byte, such as 512MB, 4GB or 2GiB")
        return text

    @field_validator("device")
    @classmethod
    def _check_device(cls, text: str) -> str:
        if not is_device(text):
            raise ValueError(DEVICE_FORM)
        return text

    @property
    def memory_in_flight_bytes(self) -> int | None:
        """The bound in bytes; None lets the runtime choose."""
        return None if self.memory_in_flight == "auto" else parse_bytes(self.memory_in_flight)

    def resolved(self, task_max_new_tokens: int | None) -> "RunConfig":
        """The same run with nothing left to its task: without a bound on new tokens of its own it has the task's."""
        if self.max_new_tokens is not None:
            return self
        return self.model_copy(update={"max_new_tokens": task_max_new_tokens or MAX_NEW_TOKENS})

    @property
    def max_replicas(self) -> int:
        """Of the agent that has the most."""
        return self.replicas if isinstance(self.replicas, int) else max(1, *self.replicas.values())

    def identity(self) -> dict[str, Any]:
        """The fields that decide what is computed; a resumed run must agree in all of them."""
        return {name: value for name, value in self.model_dump().items() if name not in _FREE_ON_RESUME}


def is_url(output: str) -> bool:
    """Whether an output folder is given as a URL, such as s3://bucket/folder."""
    return "://" in output


def parse_replicas(value: object) -> int | dict[str, int]:
    """A number for all agents, or one for each that is named, of which text is read: `3`, `planner=2,judger=6`.

    Raises ValueError.
    """
    if isinstance(value, str) and "=" in value:
        pairs = [part.partition("=") for part in value.split(",")]
        names = [name.strip() for name, _, _ in pairs]
        if len(set(names)) < len(names):
            raise ValueError(f"{_REPLICAS_FORM}; each agent once")
        value = {name: count for name, (_, _, count) in zip(names, pairs, strict=True)}
    if isinstance(value, Mapping):
        if not value or not all(isinstance(name, str) and name for name in value):
            raise ValueError(_REPLICAS_FORM)
        return {name: _count(number) for name, number in value.items()}
    return _count(value)


def replicas_by_agent(replicas: int | Mapping[str, int], agents: Sequence[str]) -> dict[str, int]:
    """How many replicas each of `agents` has; one that is not named has one. Raises ConfigError for an agent that
    there is not."""
    if isinstance(replicas, int):
        return dict.fromkeys(agents, replicas)
    if unknown := [name for name in replicas if name not in agents]:
        given = ",".join(f"{name}={count}" for name, count in replicas.items())
        raise ConfigError("replicas", given, f"there is no agent {unknown[0]!r}; the agents are {', '.join(agents)}")
    return {name: replicas.get(name, 1) for name in agents}


def _count(value: object) -> int:
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit() and len(value.strip()) <= 6:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_REPLICAS:
        raise ValueError(_REPLICAS_FORM)
    return value


def is_device(text: str) -> bool:
    """Whether it has the form of a device; whether this machine has that one, `models` tells."""
    return _DEVICE.fullmatch(text) is not None


def make_config(values: Mapping[str, Any]) -> RunConfig:
    """Validate `values`. Raises ConfigError with the field, the value and what would be right."""
    try:
        config = RunConfig.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise ConfigError(field, first["input"], f"known fields are {', '.join(RunConfig.model_fields)}") from None
        expected = _SHOULD.sub("it must ", first["msg"].removeprefix("Value error, "))
        raise ConfigError(field, first["input"], expected) from None
    if config.runtime == "ray" and config.device.startswith("cuda:"):
        # Every actor sees the GPUs that Ray gave it, numbered from 0.
        raise ConfigError(
            "device", config.device, "with runtime ray it must be cuda: Ray chooses the GPU of each actor"
        )
    if config.tp > 1 and config.runtime == "local":
        raise ConfigError("tp", config.tp, "with runtime local it must be 1: one process holds the whole model")
    if config.memory != "matched" and config.method != "latent":
        expected = f"method {config.method} hands over no memory; use matched or method latent"
        raise ConfigError("memory", config.memory, expected)
    if config.guard != "off" and config.method != "latent":
        expected = f"method {config.method} has no latent thoughts to guard; use off or method latent"
        raise ConfigError("guard", config.guard, expected)
    if config.resume and config.output is None:
        raise ConfigError("resume", True, "it needs the output folder of the run to go on with (output)")
    return config
