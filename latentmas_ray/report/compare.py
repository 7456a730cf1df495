"""Runs beside one another: what each came to, who is better on the same questions, and what latent memory was good for.

The controls of a latent run differ from it in nothing but `memory`. What it gains over them is told apart:

system gain    matched − single, and matched − none: what all of it is worth, and what handing over memory is worth
pairing gain   matched − deranged: what it is worth that the memory is of this question and no other
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import count, product
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from latentmas_ray.errors import ConfigError
from latentmas_ray.report.compared_run import (
    ComparedRun,
    RunFigures,
    check_same_questions,
    figures_of,
    read_compared,
    single_for,
)
from latentmas_ray.stats import PairedDifference, compare_paired, ids_by_verdict

# By the memory of the control: what a matched run gains over it.
_GAINS = {
    "none": "system gain over none",
    "deranged": "pairing gain",
    "prompt-only": "gain over prompt-only",
    "latent-only": "gain over latent-only",
}
# What may differ between a run and its control: with neither is another thing computed for the questions of both.
_FREE = frozenset({"memory", "seed", "limit", "batch_size"})


@dataclass(frozen=True, kw_only=True)
class PairedRuns:
    """Two runs on the questions that both have answered and that were graded."""

    base: str
    other: str
    paired: PairedDifference | None  # None where they have no such question
    num_left_out: int  # graded questions of one of them that the other has not
    only_base_ids: tuple[str, ...]  # right in the base and wrong in the other; over seeds, in more than half of them
    only_other_ids: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Gain:
    """What a latent run with matched memory gains over a run without it."""

    kind: str
    pair: PairedRuns  # base: the control or the single run; other: the matched run


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Everything that is told of some runs."""

    runs: tuple[RunFigures, ...]
    pairs: tuple[PairedRuns, ...]  # of each run with the base
    gains: tuple[Gain, ...]
    notes: tuple[str, ...]  # what a reader must know of these figures

    def to_json(self) -> dict[str, Any]:
        """As an object of JSON."""
        return asdict(self)


def compare_folders(folders: Sequence[str], base: str | None = None) -> Comparison:
    """Compare output folders, each with `base` (the first one; it need not be among them).

    Raises ConfigError for fewer than two folders or one that comes twice, JournalError for a folder that holds no run,
    or runs of different questions under the same ids.
    """
    runs = [read_compared(name, folder) for name, folder in zip(_names(), _ordered(folders, base), strict=False)]
    check_same_questions(runs)
    first = runs[0]
    figures = tuple(figures_of(run, single_for(run, runs)) for run in runs)
    pairs = tuple(_pair(first, other) for other in runs[1:])
    return Comparison(runs=figures, pairs=pairs, gains=tuple(_gains(runs)), notes=tuple(_notes(runs, pairs)))


def _ordered(folders: Sequence[str], base: str | None) -> list[str]:
    """The base first. A folder is the same however it is written."""
    places = [Path(folder).resolve() for folder in folders]
    for place, folder in zip(places, folders, strict=True):
        if places.count(place) > 1:
            raise ConfigError("DIR", folder, "it stands there twice; give each folder once")
    others = list(folders)
    if base is not None:
        others = [
            base,
            *(folder for folder, place in zip(folders, places, strict=True) if place != Path(base).resolve()),
        ]
    if len(others) < 2:
        raise ConfigError("DIR", " ".join(others), "it takes at least two output folders to compare")
    return others


def _names() -> Iterator[str]:
    """A, B, …, Z, AA, AB, …"""
    for length in count(1):
        yield from map("".join, product(ascii_uppercase, repeat=length))


def _pair(base: ComparedRun, other: ComparedRun) -> PairedRuns:
    shared = [question for question in base.correct if question in other.correct]
    a, b = [base.correct[question] for question in shared], [other.correct[question] for question in shared]
    ids = ids_by_verdict(base.correct, other.correct)
    return PairedRuns(
        base=base.name,
        other=other.name,
        paired=compare_paired(a, b) if shared else None,
        num_left_out=len(base.correct.keys() ^ other.correct.keys()),
        only_base_ids=ids[True, False],
        only_other_ids=ids[False, True],
    )


def _gains(runs: Sequence[ComparedRun]) -> Iterator[Gain]:
    for matched in runs:
        if matched.config.method != "latent" or matched.config.memory != "matched":
            continue
        controls = [run for run in runs if run.config.memory in _GAINS and _rest(run) == _rest(matched)]
        if not controls:
            continue
        if (single := single_for(matched, runs)) is not None:
            yield Gain(kind="system gain over single", pair=_pair(single, matched))
        for memory, kind in _GAINS.items():
            yield from (Gain(kind=kind, pair=_pair(run, matched)) for run in controls if run.config.memory == memory)


def _rest(run: ComparedRun) -> dict[str, Any]:
    """What a run and its controls have in common. A guard that only tells changes no answer."""
    identity = run.config.identity()
    if identity["guard"] == "warn":
        identity["guard"] = "off"
    return {name: value for name, value in identity.items() if name not in _FREE}


def _differing(control: ComparedRun, matched: Sequence[ComparedRun]) -> str:
    """The settings that keep `control` from being a control of the run that is most like it."""
    rest = _rest(control)
    differing = [[name for name, value in _rest(run).items() if value != rest[name]] for run in matched]
    fewest: list[str] = min(differing, key=len)
    return ", ".join(fewest)


def _notes(runs: Sequence[ComparedRun], pairs: Sequence[PairedRuns]) -> Iterator[str]:
    for run in runs:
        if not run.is_complete:
            yield f"{run.name} has not come to its end: what it has answered is compared, and its speed is not known"
        if run.num_resumed:
            yield f"{run.name} was resumed: its speed is that of its last start, without {run.num_resumed} questions"
        if run.num_failed:
            failed = f"{run.num_failed} questions that failed"
            yield f"{run.name} has no answer to {failed}; they are left out, not counted as wrong"
    matched = [run for run in runs if run.config.method == "latent" and run.config.memory == "matched"]
    for run in runs if matched else ():
        if run.config.memory in _GAINS and (differing := _differing(run, matched)):
            memory = run.config.memory
            yield f"{run.name} (memory {memory}) is no control: from a matched run it differs in {differing} too"
    for pair in pairs:
        if pair.paired is None:
            yield f"{pair.other} and {pair.base} have no graded question in common: they cannot be compared"
        elif pair.num_left_out:
            yield (
                f"{pair.other} and {pair.base} are compared on the {pair.paired.num_questions} graded questions of "
                f"both; {pair.num_left_out} of only one of them are left out"
            )
    if all(single_for(run, runs) is None for run in runs):
        yield "None of them is a single agent's, so no cost is told relative to single"
