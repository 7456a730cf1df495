"""The parts of a configuration, and what a field says of itself beside its type, default and description.

A part is a model of its own, and `RunConfig` is all parts together with flat names: every `RunConfig` *is* a
`SamplingConfig`, so that what needs a part takes just that. (As fields the parts could not be called what they are:
`model`, `memory` and `output` are fields.)
"""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic.fields import FieldInfo

from latentmas_ray.config.choices import (
    CodecName,
    DTypeName,
    GuardName,
    MemoryName,
    Method,
    PlacementName,
    RuntimeName,
    TransferMode,
    TransportName,
)
from latentmas_ray.config.values import DEVICE_FORM, is_device, parse_replicas
from latentmas_ray.units import parse_bytes

EMBEDDED_MODEL = "tiny"
MAX_NEW_TOKENS = 256  # of tasks that have no bound of their own


@dataclass(frozen=True)
class MayChange:
    """A resumed run may have another value: the field says where and how it runs, not what it computes."""


@dataclass(frozen=True)
class Since:
    """The field is younger than others: a run folder that lacks it was written by a run that had `before`."""

    before: Any


@dataclass(frozen=True)
class OwnFolder:
    """A folder: each of several runs, such as one a seed, gets one of its own in it."""


def marked(fields: dict[str, FieldInfo], mark: type) -> dict[str, Any]:
    """The fields that carry a mark of this type, each with its mark."""
    found = ((name, [one for one in field.metadata if isinstance(one, mark)]) for name, field in fields.items())
    return {name: marks[0] for name, marks in found if marks}


class ConfigPart(BaseModel):
    """What all parts have in common: frozen, no unknown fields, no spaces around text."""

    # Built when the first one is validated: an actor imports all parts and makes none.
    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True, defer_build=True)

    @field_validator(
        "latent_steps",
        "batch_size",
        "max_new_tokens",
        "seed",
        "limit",
        "tp",
        "trace",
        mode="before",
        check_fields=False,  # each part has some of them
    )
    @classmethod
    def _refuse_bool(cls, value: object) -> object:
        if isinstance(value, bool):
            raise ValueError("it must be a number, not true or false")
        return value


class ModelConfig(ConfigPart):
    """Which model, in which numbers, on which device."""

    model: str = Field(default=EMBEDDED_MODEL, min_length=1, description="tiny, a model folder, or a hub id")
    revision: Annotated[str | None, Since(before=None)] = Field(
        default=None, min_length=1, description="branch, tag or commit of a hub model"
    )
    dtype: DTypeName = Field(default="auto", description="auto: the one that the model's weights are stored in")
    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:N; auto takes a GPU where there is one")

    @field_validator("device")
    @classmethod
    def _check_device(cls, text: str) -> str:
        if not is_device(text):
            raise ValueError(DEVICE_FORM)
        return text


class TaskConfig(ConfigPart):
    """Which questions, and how many at once."""

    task: str = Field(
        default_factory=lambda fields: "chain" if fields.get("model") == EMBEDDED_MODEL else "sample",
        min_length=1,
        description="one of latentmas tasks, or a FILE.jsonl[.gz] of questions; without it chain, the task that tiny "
        "was trained for, and sample with any other model",
    )
    limit: int | None = Field(default=None, ge=1, description="only the first N questions")
    batch_size: int = Field(default=8, ge=1, le=4096, description="questions in one batch")


class MethodConfig(ConfigPart):
    """How the agents collaborate."""

    method: Method = Field(
        default="latent", description="one agent alone, agents that talk in text, or in latent space"
    )
    topology: str = Field(default="sequential", min_length=1, description="built-in topology, or a FILE.yaml")
    memory: MemoryName = Field(
        default="matched", description="a control: another question's memory, a part of it, or none"
    )
    latent_steps: int = Field(default=40, ge=0, le=100_000, description="latent thoughts per latent agent (m)")
    realign: bool = Field(default=True, description="map hidden states to the input embeddings by W_a; off: W_a = I")
    guard: GuardName = Field(
        default="off",
        description="about thoughts with an alarm: tell it, do not hand them over, or have text written instead",
    )


class SamplingConfig(ConfigPart):
    """How text is decoded."""

    temperature: float = Field(default=0.6, ge=0.0, le=10.0, description="0 decodes greedily")
    top_p: float = Field(default=0.95, gt=0.0, le=1.0, description="nucleus of the sampled distribution")
    max_new_tokens: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description=f"bound on decoded tokens per agent and question; without it the task's own, else {MAX_NEW_TOKENS}",
    )
    seed: int = Field(default=42, ge=0, lt=2**63, description="seed of every question's own random stream")


class TransferConfig(ConfigPart):
    """How working memory gets from agent to agent, and how much of it is held."""

    transport: Annotated[TransportName, MayChange()] = Field(
        default="auto", description="what moves memory between actors"
    )
    transfer: Annotated[TransferMode, MayChange()] = Field(
        default="kv", description="send KV, or the inputs from which its readers recompute it"
    )
    codec: CodecName = Field(default="none", description="send KV in fewer bytes, with a loss that the results tell")
    overlap: Annotated[bool, MayChange()] = Field(
        default=True, description="a prompt's memory travels while its agent still thinks"
    )
    memory_in_flight: Annotated[str, MayChange()] = Field(
        default="auto", description="bound on working memory held at once, for example 4GB"
    )

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

    @property
    def memory_in_flight_bytes(self) -> int | None:
        """The bound in bytes; None lets the runtime choose."""
        return None if self.memory_in_flight == "auto" else parse_bytes(self.memory_in_flight)


class PlacementConfig(ConfigPart):
    """Where the agents run."""

    runtime: Annotated[RuntimeName, MayChange()] = Field(
        default="ray", description="ray: actors on a cluster; local: one process, no Ray"
    )
    address: Annotated[str | None, MayChange()] = Field(
        default=None, min_length=1, description="address of a running Ray cluster; without it one is started"
    )
    placement: Annotated[PlacementName, MayChange()] = Field(
        default="auto",
        description="agents that hand over on one node, over all nodes, or as one actor; auto: pack if it fits",
    )
    replicas: Annotated[int | dict[str, int], MayChange()] = Field(
        default=1, description="copies of every agent's actor, or of some agents'"
    )
    tp: Annotated[int, MayChange()] = Field(
        default=1, ge=1, le=1024, description="GPUs of one node that each replica's model is divided over"
    )
    turn_timeout: Annotated[float, MayChange()] = Field(
        default=1800.0, gt=0, le=1e6, description="seconds after which a turn that waits for nothing is taken to hang"
    )

    @field_validator("replicas", mode="before")
    @classmethod
    def _parse_replicas(cls, value: object) -> int | dict[str, int]:
        return parse_replicas(value)

    @property
    def max_replicas(self) -> int:
        """Of the agent that has the most."""
        return self.replicas if isinstance(self.replicas, int) else max(1, *self.replicas.values())


class OutputConfig(ConfigPart):
    """What is kept of a run, and where."""

    output: Annotated[str | None, MayChange(), OwnFolder()] = Field(
        default=None, min_length=1, description="folder or URL for config.yaml, results.jsonl, summary.json"
    )
    resume: Annotated[bool, MayChange()] = Field(
        default=False, description="go on from the results already in the output folder"
    )
    trace: Annotated[int, MayChange()] = Field(
        default=0, ge=0, description="keep what every agent did and thought on the first N questions"
    )
    save_memory: Annotated[str | None, MayChange(), OwnFolder()] = Field(
        default=None, min_length=1, description="folder that gets the working memory of every question, a file each"
    )
