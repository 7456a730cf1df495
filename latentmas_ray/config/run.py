"""The run, as one frozen validated model.

Every field is a flag of `latentmas eval` and a keyword of `LatentMAS`; the only defaults are those of `config.parts`.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Self

from pydantic import ValidationError, model_validator

from latentmas_ray.config.parts import (
    MAX_NEW_TOKENS,
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
    marked,
)
from latentmas_ray.config.renamed import current_fields
from latentmas_ray.errors import ConfigError

# How pydantic begins its messages, where ours begin "it must".
_SHOULD = re.compile(r"^(Input|String) should ")


# Pydantic takes the fields of the last base first.
class RunConfig(OutputConfig, PlacementConfig, TransferConfig, SamplingConfig, MethodConfig, TaskConfig, ModelConfig):
    """What is run, on which model, and where: all parts in one, with flat names. Derived values are properties."""

    @model_validator(mode="before")
    @classmethod
    def _read_old_names(cls, values: Any) -> Any:
        return current_fields(values) if isinstance(values, Mapping) else values

    def resolved(self, task_max_new_tokens: int | None) -> Self:
        """The same run with nothing left to its task: without a bound on new tokens of its own it has the task's."""
        if self.max_new_tokens is not None:
            return self
        return self.model_copy(update={"max_new_tokens": task_max_new_tokens or MAX_NEW_TOKENS})

    def identity(self) -> dict[str, Any]:
        """The fields that decide what is computed; a resumed run must agree in all of them."""
        free = marked(type(self).model_fields, MayChange)
        return {name: value for name, value in self.model_dump().items() if name not in free}

    def with_folders(self, inner: Callable[[str], str], **changes: Any) -> Self:
        """One of several runs, which differ in `changes`: each of its folders is `inner` of the folder of all."""
        folders = {name: getattr(self, name) for name in marked(type(self).model_fields, OwnFolder)}
        return self.model_copy(
            update={name: inner(folder) for name, folder in folders.items() if folder is not None} | changes
        )


def stored_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration in a run folder's config.yaml, of this version or an older one, as this version names it.

    Fields that the older version did not have are there with what its runs had. Raises ConfigError for a field that
    stands there under its old and its new name.
    """
    before = {name: since.before for name, since in marked(RunConfig.model_fields, Since).items()}
    return before | current_fields(values)


def make_config(values: Mapping[str, Any]) -> RunConfig:
    """Validate `values`. Raises ConfigError with the field, the value and what would be right."""
    try:
        config = RunConfig.model_validate(current_fields(values))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise ConfigError(field, first["input"], f"known fields are {', '.join(RunConfig.model_fields)}") from None
        expected = _SHOULD.sub("it must ", first["msg"].removeprefix("Value error, "))
        raise ConfigError(field, first["input"], expected) from None
    _check_together(config)
    return config


def _check_together(config: RunConfig) -> None:
    """Raises ConfigError for fields that are right each by itself and not together."""
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
