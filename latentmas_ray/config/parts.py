"""The parts of a configuration, and the marks of fields.

Each is a pydantic model, and `RunConfig` inherits from all, so that functions can take only the part that they need.
"""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

from latentmas_ray.config.address import split_address
from latentmas_ray.config.choices import (
    ActorLink,
    CheckedMethod,
    CodecName,
    DTypeName,
    EngineName,
    GuardName,
    KeepBy,
    KeepLayers,
    MemoryName,
    PlacementName,
    RuntimeName,
    SamplerName,
    TransferMode,
    TransportName,
)
from latentmas_ray.config.latent_steps import DEFAULT_LATENT_STEPS, StepsSetting, parse_latent_steps
from latentmas_ray.config.thoughts import parse_thoughts
from latentmas_ray.config.values import (
    DEVICE_FORM,
    Replicas,
    count_replicas,
    describe_models,
    is_device,
    parse_models,
    parse_replicas,
    parse_transport,
)
from latentmas_ray.env import MAX_THREADS
from latentmas_ray.paths import with_home
from latentmas_ray.units import parse_bytes

EMBEDDED_MODEL = "tiny"  # the default
EMBEDDED_MODELS = EMBEDDED_MODEL, "small", "tiny-latent"  # trained for `chain` and `notes`
# Fields that are, or may be, files or folders of this machine.
PATH_FIELDS = ("model", "task", "topology", "output", "save_memory", "decide_accuracies", "translation", "hardware")
MAX_NEW_TOKENS = 256  # for tasks without their own limit
VLLM_DECODE_BATCH = 64  # questions that vLLM writes at the same time unless another number is given
MAX_DRIVERS = 64
MAX_DECODE_BATCH = 1024  # a turn of a single question has a thread in its actor


@dataclass(frozen=True)
class MayChange:
    """A resumed run may have another value: the field affects where and how a run executes, not what it computes."""


@dataclass(frozen=True)
class Since:
    """The field was added later: a run folder without it was written by a run whose value was `before`."""

    before: Any


@dataclass(frozen=True)
class OwnFolder:
    """The field is a folder: each of several runs, such as one per seed, gets its own folder in it."""


def marked(fields: dict[str, FieldInfo], mark: type) -> dict[str, Any]:
    """Return the fields with a mark of this type, and their marks."""
    found = ((name, [one for one in field.metadata if isinstance(one, mark)]) for name, field in fields.items())
    return {name: marks[0] for name, marks in found if marks}


class ConfigPart(BaseModel):
    """The base of all parts: frozen, without unknown fields; strips spaces around text."""

    # Validators are built at the first use: an actor imports all parts and makes none.
    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True, defer_build=True)

    @field_validator(
        "batch_size",
        "decode_batch",
        "max_new_tokens",
        "seed",
        "limit",
        "drivers",
        "tp",
        "threads",
        "trace",
        "keep",
        "samples",
        mode="before",
        check_fields=False,  # each part has only some of these fields
    )
    @classmethod
    def _refuse_bool(cls, value: object) -> object:
        if isinstance(value, bool):
            raise ValueError("it must be a number, not true or false")
        return value

    @field_validator(*PATH_FIELDS, check_fields=False)
    @classmethod
    def _expand_home(cls, value: str | None, info: ValidationInfo) -> str | None:
        is_name = info.field_name == "topology" and not (value or "").lower().endswith((".yaml", ".yml"))
        return value if value is None or is_name else with_home(value)


class ModelConfig(ConfigPart):
    """The model, its number format and its device."""

    model: str = Field(default=EMBEDDED_MODEL, min_length=1, description="tiny, small, tiny-latent, a folder or hub id")
    models: Annotated[dict[str, str], Since(before={})] = Field(
        default_factory=dict, description="of agents that have another model, as in planner=tiny,judger=FOLDER"
    )
    revision: Annotated[str | None, Since(before=None)] = Field(
        default=None, min_length=1, description="branch, tag or commit of a hub model"
    )
    dtype: DTypeName = Field(default="auto", description="auto: the one in which the weights are stored")
    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:N; auto uses a GPU if there is one")

    @field_validator("models", mode="before")
    @classmethod
    def _parse_models(cls, value: object) -> dict[str, str]:
        return {agent: with_home(model) for agent, model in parse_models(value).items()}

    @property
    def model_names(self) -> str:
        """All models of the run, for tables: that of most agents, and those of the others."""
        return describe_models(self.model, self.models)

    @field_validator("device")
    @classmethod
    def _check_device(cls, text: str) -> str:
        if not is_device(text):
            raise ValueError(DEVICE_FORM)
        return text


class TaskConfig(ConfigPart):
    """The questions, and how many are in one batch."""

    task: str = Field(
        default_factory=lambda fields: "chain" if fields.get("model") in EMBEDDED_MODELS else "sample",
        min_length=1,
        description="one of latentmas tasks, or a FILE.jsonl[.gz] of questions; without it chain, a task that tiny "
        "and small were trained for, and sample with any other model",
    )
    limit: int | None = Field(default=None, ge=1, description="only the first N questions")
    batch_size: int = Field(default=8, ge=1, le=4096, description="questions in one batch")
    unsafe_programs: Annotated[bool, MayChange()] = Field(
        default=False, description="grade code also where this machine cannot confine programs"
    )


class MethodConfig(ConfigPart):
    """How the agents collaborate."""

    method: CheckedMethod = Field(
        default="latent", description="one agent alone, agents that talk in text, or in latent space"
    )
    topology: str = Field(
        default="sequential",
        min_length=1,
        description="one of latentmas topologies, or a FILE.yaml: the agents, and who reads whom",
    )
    memory: MemoryName = Field(
        default="matched",
        description="a control: another question's memory, a part of it, none, or one agent gets something wrong",
    )
    latent_steps: StepsSetting = Field(
        default=DEFAULT_LATENT_STEPS,
        description="latent thoughts per latent agent (m); auto: until they have converged (see docs/latent_steps.md)",
    )
    thoughts: str = Field(
        default="realign",
        description="how the last hidden state becomes the next thought: realign, identity, soft, blend or noise; with "
        "parameters as in soft:temperature=0.7,top_k=50",
    )
    guard: GuardName = Field(
        default="off", description="thoughts with an alarm: warn, drop them from the memory, or write text instead"
    )

    @field_validator("latent_steps", mode="before")
    @classmethod
    def _parse_latent_steps(cls, value: object) -> StepsSetting:
        return parse_latent_steps(value)

    @field_validator("thoughts", mode="before")
    @classmethod
    def _parse_thoughts(cls, value: object) -> str:
        return str(parse_thoughts(value))


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


class WritingConfig(ConfigPart):
    """What writes the texts of the agents, and how many at the same time."""

    engine: Annotated[EngineName, MayChange()] = Field(
        default="auto",
        description="what writes text; auto: vllm where it is installed, reads this model and there is a GPU",
    )
    decode_batch: Annotated[int | None, MayChange()] = Field(
        default=None,
        ge=1,
        le=MAX_DECODE_BATCH,
        description="questions that a text agent writes at the same time; without it the batch size, with vllm "
        f"{VLLM_DECODE_BATCH}",
    )
    sampler: Annotated[SamplerName, Since(before="counter")] = Field(
        default="counter",
        description="counter: each question's own random stream, whatever the engine; engine: vLLM's sampler, faster",
    )


class TransferConfig(ConfigPart):
    """How working memory moves between agents, and how much of it may exist at once."""

    transport: Annotated[TransportName | dict[ActorLink, TransportName], MayChange()] = Field(
        default="auto",
        description="how memory moves between actors; by link, as in same_node=shared_memory,cross_node=tcp",
    )
    transfer: Annotated[TransferMode, MayChange()] = Field(
        default="kv", description="send KV, or the inputs from which its readers recompute it"
    )
    codec: CodecName = Field(
        default="none", description="send KV in fewer bytes, with an error that the results report"
    )
    keep: Annotated[float, Since(before=1.0)] = Field(
        default=1.0, gt=0.0, le=1.0, description="hand over only this share of the positions of each prompt"
    )
    keep_by: Annotated[KeepBy, Since(before="prompt")] = Field(
        default="prompt",
        description="whose attention chooses them: the prompt's last tokens, these and the thoughts, or its readers; "
        "random: chance, as a control; window: without a share, what can be seen if all layers have a sliding window",
    )
    keep_layers: Annotated[KeepLayers, Since(before="shared")] = Field(
        default="shared", description="whether all layers keep the same positions, or each its own"
    )
    overlap: Annotated[bool, MayChange()] = Field(
        default=True, description="send the memory of a prompt while its agent still thinks"
    )
    memory_in_flight: Annotated[str, MayChange()] = Field(
        default="auto", description="limit on working memory in flight, for example 4GB"
    )

    @field_validator("transport", mode="before")
    @classmethod
    def _parse_transport(cls, value: object) -> TransportName | dict[ActorLink, TransportName]:
        return parse_transport(value)

    @field_validator("memory_in_flight", mode="before")
    @classmethod
    def _check_size(cls, value: object) -> object:
        # YAML and Python have numbers too, and those have no unit.
        text = str(value).strip() if isinstance(value, str | int | float) else ""
        try:
            is_valid = text == "auto" or parse_bytes(text) >= 1
        except ValueError as problem:
            raise ValueError(f"{problem}; or auto") from None
        if not is_valid:
            raise ValueError("it must be auto or a size of at least one byte, such as 512MB, 4GB or 2GiB")
        return value

    @property
    def memory_in_flight_bytes(self) -> int | None:
        """The limit in bytes; None: the runtime chooses."""
        return None if self.memory_in_flight == "auto" else parse_bytes(self.memory_in_flight)


class PlacementConfig(ConfigPart):
    """Where the agents run."""

    runtime: Annotated[RuntimeName, MayChange()] = Field(
        default="ray", description="ray: actors on a cluster; local: one process, no Ray"
    )
    address: Annotated[str | None, MayChange()] = Field(
        default=None,
        min_length=1,
        description="HOST:PORT of a running Ray cluster, or auto; without it that of RAY_ADDRESS, else one is started",
    )
    placement: Annotated[PlacementName, MayChange()] = Field(
        default="auto",
        description="agents that share memory on one node, over all nodes, or in one actor; auto: pack if it fits",
    )
    replicas: Annotated[Replicas, MayChange()] = Field(
        default=1,
        description="copies of each agent's actor, or of some agents' actors; auto: fill the cluster so that it "
        "answers the most questions per second, as predicted",
    )
    hardware: Annotated[str | None, MayChange()] = Field(
        default=None,
        min_length=1,
        description="with replicas auto: the GPUs or processors whose figures are used, by name or from the FILE.json "
        "of latentmas plan --measure; without it those that Ray or this machine names",
    )
    max_replicas: Annotated[Replicas | None, MayChange()] = Field(
        default=None, description="grow to so many replicas where nodes have room, auto: as many as fit; else replicas"
    )
    min_replicas: Annotated[int | dict[str, int] | None, MayChange()] = Field(
        default=None, description="start when so many replicas are up; the others follow. Without it all"
    )
    rebalance: Annotated[bool, MayChange()] = Field(
        default=False, description="let a replica of an idle agent end for one of the agent that holds the others up"
    )
    drivers: Annotated[int, MayChange()] = Field(
        default=1, ge=1, le=MAX_DRIVERS, description="processes that drive an evaluation, each a part of the cluster"
    )
    tp: Annotated[int, MayChange()] = Field(
        default=1, ge=1, le=1024, description="GPUs of one node over which each replica's model is split"
    )
    threads: Annotated[int | None, MayChange()] = Field(
        default=None,
        ge=1,
        le=MAX_THREADS,
        description="threads with which each agent's actor, or the process of runtime local, computes on cores; "
        "without it LATENTMAS_TORCH_THREADS, else an actor's part of its node's cores, and locally the cores that are "
        "free",
    )
    start_timeout: Annotated[float, MayChange()] = Field(
        default=1800.0, gt=0, le=1e6, description="seconds that actors may take to find places and load their models"
    )
    turn_timeout: Annotated[float, MayChange()] = Field(
        default=1800.0, gt=0, le=1e6, description="seconds after which a turn with all its inputs counts as hung"
    )
    detach: Annotated[float | None, MayChange()] = Field(
        default=None,
        ge=10,
        le=1e6,
        description="seconds that actors outlive a driver that is killed, for --resume to use them again",
    )

    @field_validator("address")
    @classmethod
    def _check_address(cls, address: str | None) -> str | None:
        if address is not None:
            split_address(address)
        return address

    @field_validator("replicas", mode="before")
    @classmethod
    def _parse_replicas(cls, value: object) -> Replicas:
        return parse_replicas(value)

    @field_validator("max_replicas", mode="before")
    @classmethod
    def _parse_max_replicas(cls, value: object) -> Replicas | None:
        return None if value is None else parse_replicas(value)

    @field_validator("min_replicas", mode="before")
    @classmethod
    def _parse_min_replicas(cls, value: object) -> int | dict[str, int] | None:
        if value is not None and (counts := parse_replicas(value)) != "auto":
            return counts
        if value is not None:
            raise ValueError("it must be a number, or one for each agent, as in planner=1,judger=2")
        return None

    @property
    def most_replicas(self) -> int:
        """The number of replicas of the agent with the most replicas; with auto 1, until a search has chosen them."""
        if self.replicas == "auto":
            return 1
        return self.replicas if isinstance(self.replicas, int) else max(1, *count_replicas(self.replicas).values())


class OutputConfig(ConfigPart):
    """The files of a run."""

    output: Annotated[str | None, MayChange(), OwnFolder()] = Field(
        default=None, min_length=1, description="folder or URL for config.yaml, results.jsonl, summary.json"
    )
    resume: Annotated[bool, MayChange()] = Field(
        default=False, description="continue from the results in the output folder"
    )
    trace: Annotated[int, MayChange()] = Field(
        default=0, ge=0, description="store what every agent did and thought on the first N questions"
    )
    save_memory: Annotated[str | None, MayChange(), OwnFolder()] = Field(
        default=None, min_length=1, description="folder for the working memory of every question, one file each"
    )
    otel: Annotated[bool, MayChange()] = Field(
        default=False, description="export OpenTelemetry spans of questions and turns by OTLP; OTEL_* says where"
    )
