"""Teams of two models: what the memory of one model's experts is worth to the other model's answering agent.

Each cell is a run with a folder of its own, which `latentmas compare` and `latentmas report` read too. A cell that is
finished is not run again, one that was interrupted continues.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from latentmas_ray import LatentMAS, load_run
from latentmas_ray.errors import ConfigError
from latentmas_ray.stats import accuracy_interval, compare_paired

_CONTROLS = ("matched", "deranged", "prompt-only", "latent-only", "none")
_OWN_CONTROLS = ("matched", "deranged", "latent-only")  # of one model alone: what the pairs are compared with


@dataclass(frozen=True, kw_only=True)
class MixedSettings:
    """Which models work together, and on what. Raises ConfigError for impossible values."""

    models: tuple[str, ...] = ("tiny", "small")
    task: str = "notes"
    topology: str = "hierarchical"
    answerer: str = "answerer"  # the answering agent of that topology
    limit: int = 1000
    latent_steps: int = 10
    batch_size: int = 50
    max_new_tokens: int = 160
    dtype: str = "auto"
    teams: tuple[tuple[str, str], ...] = ()  # only these, as (model of the experts, model of the answerer); (): all

    def __post_init__(self) -> None:
        if len(set(self.models)) < 2:
            raise ConfigError("models", ",".join(self.models), "it must be at least two models, as in tiny,small")
        for team in self.teams:
            if unknown := [name for name in team if name not in self.models]:
                raise ConfigError("teams", unknown[0], f"it must be two of --models, {', '.join(self.models)}")

    def cells(self) -> "Iterator[MixedCell]":
        """The cells of the teams that are asked for, and of each of their models alone."""
        alone = {name for team in self.teams for name in team}
        for cell in mixed_cells(self.models):
            asked = cell.experts in alone if cell.method == "single" else (cell.experts, cell.answerer) in self.teams
            if asked or not self.teams:
                yield cell


def split_teams(teams: str) -> tuple[tuple[str, str], ...]:
    """Split `tiny+small,small+small`. Raises ConfigError."""
    pairs = [team.split("+") for team in teams.split(",") if team]
    if wrong := [pair for pair in pairs if len(pair) != 2]:
        raise ConfigError("teams", "+".join(wrong[0]), "it must be EXPERTS+ANSWERER, as in tiny+small")
    return tuple((experts, answerer) for experts, answerer in pairs)


@dataclass(frozen=True)
class MixedCell:
    """One run: experts of one model, the answering agent of another or of the same."""

    experts: str
    answerer: str
    method: str
    memory: str = "matched"

    @property
    def folder(self) -> str:
        """The name of its folder."""
        names = [Path(name).name for name in (self.experts, self.answerer)]
        return "-".join([*names, self.method, *([self.memory] if self.method == "latent" else [])])


@dataclass(frozen=True)
class MixedFigures:
    """The verdicts of a cell: 1.0 for a right answer, by question."""

    cell: MixedCell
    scores: tuple[float, ...]


def mixed_cells(models: Sequence[str]) -> Iterator[MixedCell]:
    """All cells: one agent with each model, pairs in both directions, and teams of one model to compare them with."""
    for name in models:
        yield MixedCell(name, name, "single")
    for experts, answerer in sorted(product(models, models), key=lambda pair: pair[0] == pair[1]):
        yield MixedCell(experts, answerer, "text")
        for memory in _OWN_CONTROLS if experts == answerer else _CONTROLS:
            yield MixedCell(experts, answerer, "latent", memory)


def measure_mixed(settings: MixedSettings, folder: Path, tell: Callable[[str], None]) -> list[MixedFigures]:
    """Run all cells that have not been run, and return the figures of all; `tell` gets a line for each."""
    found = []
    for cell in settings.cells():
        found.append(MixedFigures(cell, _scores(settings, cell, folder)))
        tell(f"{cell.folder}: {sum(found[-1].scores):.0f} of {len(found[-1].scores)} right")
    return found


def _scores(settings: MixedSettings, cell: MixedCell, folder: Path) -> tuple[float, ...]:
    place = folder / f"{settings.task}-{settings.latent_steps}" / cell.folder
    fields: dict[str, Any] = {
        "dtype": settings.dtype,
        "method": cell.method,
        "output": str(place),
        "resume": place.exists(),
    }
    if cell.method != "single":
        fields["topology"] = settings.topology
    if cell.method == "latent":
        fields |= {"memory": cell.memory, "latent_steps": settings.latent_steps}
    if cell.experts != cell.answerer:
        fields["models"] = {settings.answerer: cell.answerer}
    if not (place / "summary.json").exists():
        with LatentMAS(
            cell.experts,
            task=settings.task,
            limit=settings.limit,
            batch_size=settings.batch_size,
            max_new_tokens=settings.max_new_tokens,
            temperature=0.0,
            runtime="local",
            **fields,
        ) as mas:
            mas.evaluate()
    run = load_run(place)
    rows = {answer.id: float(bool(answer.correct)) for answer in run.answers}
    if (limit := run.config.limit) != settings.limit:
        raise ConfigError("--limit", settings.limit, f"the cell {cell.folder} has --limit {limit}; use another folder")
    return tuple(rows[key] for key in sorted(rows))


def mixed_table(found: Sequence[MixedFigures]) -> str:
    """The accuracies, as a table of Markdown: one row for each team, one column for each method and control."""
    columns = ("single", "text", *_CONTROLS)
    lines = ["| experts | answerer | " + " | ".join(columns) + " |", "| --- " * (len(columns) + 2) + "|"]
    by_team: dict[tuple[str, str], dict[str, Sequence[float]]] = {}
    for one in found:
        key = one.cell.memory if one.cell.method == "latent" else one.cell.method
        by_team.setdefault((one.cell.experts, one.cell.answerer), {})[key] = one.scores
    for (experts, answerer), scores in by_team.items():
        cells = [_accuracy(scores[name]) if name in scores else "" for name in columns]
        lines.append(f"| {Path(experts).name} | {Path(answerer).name} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *_gains(by_team)])


def _gains(by_team: dict[tuple[str, str], dict[str, Sequence[float]]]) -> Iterator[str]:
    """What memory is worth, question by question: P, and the parts of prompts and thoughts."""
    pairs = {
        "P: matched − deranged": ("deranged", "matched"),
        "matched − none": ("none", "matched"),
        "matched − text": ("text", "matched"),
        "thoughts added to prompts: matched − prompt-only": ("prompt-only", "matched"),
        "thoughts alone: latent-only − none": ("none", "latent-only"),
    }
    yield "| experts | answerer | " + " | ".join(pairs) + " |"
    yield "| --- " * (len(pairs) + 2) + "|"
    for (experts, answerer), scores in by_team.items():
        if "matched" in scores:
            cells = [
                _difference(scores[base], scores[other]) if base in scores and other in scores else ""
                for base, other in pairs.values()
            ]
            yield f"| {Path(experts).name} | {Path(answerer).name} | " + " | ".join(cells) + " |"


def _accuracy(scores: Sequence[float]) -> str:
    low, high = accuracy_interval(scores)
    return f"{100 * sum(scores) / len(scores):.1f} ({100 * low:.1f}–{100 * high:.1f})"


def _difference(base: Sequence[float], other: Sequence[float]) -> str:
    paired = compare_paired(base, other)
    low, high = paired.interval
    return f"{100 * paired.difference:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
