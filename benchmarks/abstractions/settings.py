"""What `python -m benchmarks abstractions` measures."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from latentmas_ray.config import HintSource, MemoryName
from latentmas_ray.errors import ConfigError
from latentmas_ray.tasks.hints.generated import MAX_HINTS

TASKS = ("chain", "notes", "facts")
SOURCES: tuple[HintSource, ...] = ("own", "oracle")
METHODS = ("text", "latent")
TEXT_CONTROLS: tuple[MemoryName, ...] = ("matched", "deranged")
LATENT_CONTROLS: tuple[MemoryName, ...] = ("matched", "deranged", "prompt-only", "latent-only", "latent-only+sink")
BARE = "none"  # the source of the solver alone


class HintCell(NamedTuple):
    """One setting: m hints for each question, and k answers with each."""

    task: str
    source: str  # own, oracle, or none: the solver alone
    method: str  # how hints reach the solver
    num_hints: int
    num_answers: int

    @property
    def folder(self) -> str:
        """The name of its output folder."""
        return f"{self.task}-{self.source}-{self.method}-{self.num_hints}x{self.num_answers}"

    @property
    def name(self) -> str:
        """What is asked for, for a table."""
        return "no hint" if self.source == BARE else f"{self.source}, {self.method}"


@dataclass(frozen=True, kw_only=True)
class HintBenchSettings:
    """The settings of the benchmark. Raises ConfigError for a value that means nothing."""

    folder: str  # gets the runs
    model: str = "tiny"
    dtype: str = "auto"
    tasks: tuple[str, ...] = ("chain", "notes")
    sources: tuple[str, ...] = SOURCES
    methods: tuple[str, ...] = METHODS
    budget: int = 4  # answers to each question: m · k
    hints: tuple[int, ...] = (1, 2, 4)  # m
    controls_at: int | None = None  # m of the controls; None: the largest
    limit: int = 200
    batch_size: int = 50
    latent_steps: int = 10
    temperature: float = 1.0
    max_new_tokens: int = 96
    seed: int = 42

    def __post_init__(self) -> None:
        for field, values, known in (
            ("tasks", self.tasks, TASKS),
            ("sources", self.sources, SOURCES),
            ("methods", self.methods, METHODS),
        ):
            if not values or len(set(values)) < len(values) or (set(values) - {*known}):
                expected = f"it must be different ones of {', '.join(known)}, at least one"
                raise ConfigError(field, ",".join(values), expected)
        if self.budget < 1:
            raise ConfigError("budget", self.budget, "it must be at least 1 answer to each question")
        given = ",".join(map(str, self.hints))
        if not self.hints or len(set(self.hints)) < len(self.hints) or any(m < 1 for m in self.hints):
            raise ConfigError("hints", given, "it must be different numbers of at least 1, at least one")
        if uneven := [m for m in self.hints if self.budget % m]:
            raise ConfigError("hints", given, f"{uneven[0]} does not divide the budget of {self.budget} answers")
        if self.controls_at is not None and self.controls_at not in self.hints:
            raise ConfigError("controls_at", self.controls_at, f"it must be one of the numbers of hints, {given}")
        if self.temperature <= 0:
            raise ConfigError("temperature", self.temperature, "it must be above 0: answers with a hint have to differ")

    @property
    def controlled(self) -> int:
        """The number of hints with which all controls are run."""
        return max(self.hints) if self.controls_at is None else self.controls_at

    def cells(self) -> Iterator[HintCell]:
        """Yield all settings; first the solver alone, whose answers are grouped for every number of hints."""
        for task in self.tasks:
            yield HintCell(task, BARE, "latent", self.budget, 1)
            for source in self.sources:
                for method in self.methods:
                    for m in self.hints:
                        if source == "own" or m <= MAX_HINTS:
                            yield HintCell(task, source, method, m, self.budget // m)

    def controls(self, cell: HintCell) -> tuple[MemoryName, ...]:
        """Return the controls under which a cell is run."""
        if cell.source == BARE:
            return ("none",)
        if cell.num_hints != self.controlled:
            return ("matched",)
        return TEXT_CONTROLS if cell.method == "text" else LATENT_CONTROLS
