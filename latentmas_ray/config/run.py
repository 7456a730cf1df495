"""`RunConfig`: the whole configuration of a run, frozen and validated.

Every field is a flag of `latentmas eval` and a keyword of `LatentMAS`; all defaults are in `config.parts`.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Self

from pydantic import ValidationError, model_validator

from latentmas_ray.config.decision import DecisionConfig
from latentmas_ray.config.hints import HintsConfig
from latentmas_ray.config.parts import (
    MAX_DECODE_BATCH,
    MAX_NEW_TOKENS,
    PATH_FIELDS,
    VLLM_DECODE_BATCH,
    MayChange,
    MethodConfig,
    ModelConfig,
    OutputConfig,
    OwnFolder,
    PlacementConfig,
    SamplingConfig,
    Since,
    TaskConfig,
    TransferConfig,
    WritingConfig,
    marked,
)
from latentmas_ray.config.renamed import current_fields
from latentmas_ray.config.translation import TranslationConfig
from latentmas_ray.config.values import format_replicas, is_url
from latentmas_ray.errors import ConfigError
from latentmas_ray.expected import expected_form, field_at
from latentmas_ray.paths import with_home

# Controls that are about texts too; the second ones of runs with hints.
_IN_TEXT = {("corrupted", "text")}
_OF_HINTS_IN_TEXT = {("deranged", "text"), ("none", "text")}


# Pydantic takes the fields of the last base first.
class RunConfig(
    OutputConfig,
    PlacementConfig,
    TransferConfig,
    WritingConfig,
    DecisionConfig,
    SamplingConfig,
    HintsConfig,
    MethodConfig,
    TaskConfig,
    TranslationConfig,
    ModelConfig,
):
    """The configuration of a run: all parts in one, with flat names. Derived values are properties."""

    @model_validator(mode="before")
    @classmethod
    def _read_old_names(cls, values: Any) -> Any:
        return current_fields(values) if isinstance(values, Mapping) else values

    def resolved(self, task_max_new_tokens: int | None) -> Self:
        """Return the same configuration with `max_new_tokens` set: its own value, else the task's, else the default."""
        if self.max_new_tokens is not None:
            return self
        return self.model_copy(update={"max_new_tokens": task_max_new_tokens or MAX_NEW_TOKENS})

    @property
    def has_thoughts(self) -> bool:
        """Whether agents think in latent space: with one agent alone, with text and without memory none does."""
        return self.method == "latent" and self.memory != "none"

    def written_at_once(self, engine: str) -> int:
        """Return the number of questions that an agent with this engine writes at the same time: at most
        `MAX_DECODE_BATCH`, however large a batch is."""
        return self.decode_batch or (VLLM_DECODE_BATCH if engine == "vllm" else min(self.batch_size, MAX_DECODE_BATCH))

    def identity(self) -> dict[str, Any]:
        """Return the fields that decide what is computed; a resumed run must have the same values."""
        free = marked(type(self).model_fields, MayChange)
        return {name: value for name, value in self.model_dump().items() if name not in free}

    def with_folders(self, inner: Callable[[str], str], **changes: Any) -> Self:
        """Return the configuration of one of several runs, with `changes`; `inner` maps each folder to its own."""
        folders = {name: getattr(self, name) for name in marked(type(self).model_fields, OwnFolder)}
        return self.model_copy(
            update={name: inner(folder) for name, folder in folders.items() if folder is not None} | changes
        )


def stored_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a config.yaml, written by this or an older version, under the names of this version.

    Fields that the older version did not have get the values of its runs. Raises ConfigError for a field that is given
    under its old and its new name.
    """
    before = {name: since.before for name, since in marked(RunConfig.model_fields, Since).items()}
    return before | _in_current_form(current_fields(values))


def _in_current_form(fields: dict[str, Any]) -> dict[str, Any]:
    """Return stored fields as this version writes them: home folders are expanded, and sizes have a unit."""
    for name in PATH_FIELDS:
        if isinstance(path := fields.get(name), str):
            with suppress(ValueError):  # of a user of another machine
                fields[name] = with_home(path)
    if isinstance(size := fields.get("memory_in_flight"), str) and size.strip().isdigit():
        fields["memory_in_flight"] = f"{size}B"
    return fields


def make_config(values: Mapping[str, Any]) -> RunConfig:
    """Validate `values`. Raises ConfigError with the field, the value and the expected form."""
    try:
        config = RunConfig.model_validate(current_fields(values))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise ConfigError(field, first["input"], f"known fields are {', '.join(RunConfig.model_fields)}") from None
        expected = expected_form(first, field_at(RunConfig, first["loc"]))
        raise ConfigError(field, first["input"], expected) from None
    _check_together(config)
    return config


def _check_together(config: RunConfig) -> None:
    """Raise ConfigError for valid values that exclude each other, and for those that only finished folders have."""
    if config.method == "vote":
        expected = "it must be single, text or latent; latentmas vote decides over finished runs"
        raise ConfigError("method", config.method, expected)
    if config.runtime == "ray" and config.device.startswith("cuda:"):
        # Every actor sees only the GPUs that Ray assigned to it, numbered from 0.
        raise ConfigError(
            "device", config.device, "with runtime ray it must be cuda: Ray chooses the GPU of each actor"
        )
    if config.tp > 1 and config.runtime == "local":
        raise ConfigError("tp", config.tp, "with runtime local it must be 1: one process holds the whole model")
    in_text = _IN_TEXT | (set() if config.abstractions is None else _OF_HINTS_IN_TEXT)
    if config.memory != "matched" and config.method != "latent" and (config.memory, config.method) not in in_text:
        expected = f"method {config.method} hands over no memory; use matched or method latent"
        if config.memory == "corrupted":
            expected = "one agent alone hands nothing on; use matched, or method latent or text"
        raise ConfigError("memory", config.memory, expected)
    if config.abstractions is not None and config.method == "single":
        expected = "one agent alone gets no hint; use method text or latent, with memory none for the solver alone"
        raise ConfigError("abstractions", config.abstractions, expected)
    if config.guard != "off" and config.method != "latent":
        expected = f"method {config.method} has no latent thoughts to guard; use off or method latent"
        raise ConfigError("guard", config.guard, expected)
    if config.samples > 1 and config.temperature == 0:
        expected = "at temperature 0 all of them are the same; use a temperature above 0, or samples 1"
        raise ConfigError("samples", config.samples, expected)
    if config.detach is not None:
        _check_detached(config)
    if config.drivers > 1 and config.runtime == "ray":
        _check_drivers(config)
    if config.resume and config.output is None:
        raise ConfigError("resume", True, "it needs the output folder of the run to continue (output)")


def _check_drivers(config: RunConfig) -> None:
    """Raise ConfigError for what several drivers cannot have."""
    for name in ("min_replicas", "max_replicas"):
        if (value := getattr(config, name)) is not None:
            expected = f"with {config.drivers} drivers it must be left out: each has a fixed part of the cluster"
            raise ConfigError(name, value if isinstance(value, int | str) else format_replicas(value), expected)
    if config.detach is not None:
        expected = f"with {config.drivers} drivers it must be left out: a driver that ends is started again by the run"
        raise ConfigError("detach", config.detach, expected)


def _check_detached(config: RunConfig) -> None:
    """Raise ConfigError if no later driver could find the actors, or use them."""
    if config.runtime == "ray" and config.output is None:
        raise ConfigError(
            "detach", config.detach, "it needs the output folder of the run, where the next one finds it (output)"
        )
    if config.output is not None and is_url(config.output):
        raise ConfigError(
            "detach", config.detach, "the output must be a folder here, where the next driver finds it (output)"
        )
    if config.tp > 1:
        raise ConfigError(
            "detach", config.detach, "with tp above 1 it must be left out: ranks do not join a new driver"
        )
