"""What `python -m benchmarks errors` measures."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from benchmarks.errors.topologies import FORMS
from latentmas_ray.config import GuardName
from latentmas_ray.errors import ConfigError

_GUARDS: tuple[GuardName, ...] = ("off", "warn", "drop", "text")
_MAX_BETWEEN = 16


class ChainSetting(NamedTuple):
    """One setting: it is run with matched memory and with one agent that gets something wrong."""

    task: str
    method: Literal["text", "latent"]
    guard: GuardName  # off for text
    between: int  # agents that know it right, between the one that gets the error and the one that answers

    @property
    def folder(self) -> str:
        """The name of its output folder."""
        return f"{self.task}-{self.method}-guard-{self.guard}-between-{self.between}"


@dataclass(frozen=True, kw_only=True)
class ErrorsBenchSettings:
    """The settings of the benchmark. Raises ConfigError for a value that means nothing."""

    folder: str  # gets the runs
    model: str = "tiny"
    tasks: tuple[str, ...] = ("notes", "chain")
    between: tuple[int, ...] = (0, 1, 2, 4)
    guards: tuple[str, ...] = ("off", "drop")
    limit: int = 400
    batch_size: int = 100
    latent_steps: int = 10
    max_new_tokens: int = 256

    def __post_init__(self) -> None:
        for field, value in (("tasks", self.tasks), ("between", self.between), ("guards", self.guards)):
            if not value or len(set(value)) < len(value):
                raise ConfigError(field, ",".join(map(str, value)), "it must be different values, at least one")
        if unknown := [name for name in self.tasks if name not in FORMS]:
            raise ConfigError("tasks", unknown[0], f"it must be some of {', '.join(FORMS)}")
        if unknown := [name for name in self.guards if name not in _GUARDS]:
            raise ConfigError("guards", unknown[0], f"it must be some of {', '.join(_GUARDS)}")
        if not all(0 <= count <= _MAX_BETWEEN for count in self.between):
            given = ",".join(map(str, self.between))
            raise ConfigError("between", given, f"it must be numbers of agents from 0 to {_MAX_BETWEEN}")

    def cells(self) -> Iterator[ChainSetting]:
        """Yield all settings."""
        for task in self.tasks:
            for between in self.between:
                yield ChainSetting(task, "text", "off", between)
                for guard in _GUARDS:
                    if guard in self.guards:
                        yield ChainSetting(task, "latent", guard, between)
