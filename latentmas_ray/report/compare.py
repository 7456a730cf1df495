"""Compares runs: the figures of each, paired differences on the same questions, and gains over controls.

The controls of a run differ from it only in `memory`; `runs.controls.gains` says what the gains over them are. The gain
over single is that of the whole system over one agent alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import count, product
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from latentmas_ray.errors import ConfigError
from latentmas_ray.paths import expand_home
from latentmas_ray.report.compared_run import (
    ComparedRun,
    RunFigures,
    check_same_questions,
    figures_of,
    read_compared,
    single_for,
)
from latentmas_ray.report.runs import with_controls
from latentmas_ray.runs.controls.churn import Churn, churn_over_seeds
from latentmas_ray.runs.controls.gains import GAINS
from latentmas_ray.runs.controls.names import HOW_TO_GET
from latentmas_ray.stats import PairedDifference, compare_paired, ids_by_verdict

# The settings that may differ between a run and its control: they change nothing else that is computed per question.
_FREE = frozenset({"memory", "seed", "limit", "batch_size"})


@dataclass(frozen=True, kw_only=True)
class PairedRuns:
    """Two runs, compared on the graded questions of both."""

    base: str
    other: str
    paired: PairedDifference | None  # None if they have no graded question in common
    num_left_out: int  # graded questions of only one of them
    only_base_ids: tuple[str, ...]  # right in the base and wrong in the other; over seeds, in more than half of them
    only_other_ids: tuple[str, ...]
    churn: Churn  # from the base to the other, seed by seed


@dataclass(frozen=True, kw_only=True)
class Gain:
    """The gain of a latent run with matched memory over a run without it."""

    kind: str
    pair: PairedRuns  # base: the control or the single run; other: the matched run


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The result of comparing several runs."""

    runs: tuple[RunFigures, ...]
    pairs: tuple[PairedRuns, ...]  # each run with the base
    gains: tuple[Gain, ...]
    notes: tuple[str, ...]  # what limits these figures

    def to_json(self) -> dict[str, Any]:
        """Return an object for JSON."""
        return asdict(self)


def compare_folders(folders: Sequence[str], base: str | None = None) -> Comparison:
    """Compare output folders, each with `base` (default: the first; it need not be among them). A folder of several
    controls stands for the folders of each.

    Raises ConfigError for fewer than two folders or a repeated one, JournalError for a folder without a run, or for
    runs with different questions under one id.
    """
    runs = [read_compared(name, folder) for name, folder in zip(_names(), _ordered(folders, base), strict=False)]
    check_same_questions(runs)
    first = runs[0]
    figures = tuple(figures_of(run, single_for(run, runs)) for run in runs)
    pairs = tuple(_pair(first, other) for other in runs[1:])
    return Comparison(runs=figures, pairs=pairs, gains=tuple(find_gains(runs)), notes=tuple(_notes(runs, pairs)))


def _ordered(folders: Sequence[str], base: str | None) -> list[str]:
    """Return the folders with the base first. Folders are compared by their resolved paths."""
    folders = with_controls(expand_home("DIR", folder) for folder in folders)
    base = None if base is None else with_controls([expand_home("base", base)])[0]
    paths = [Path(folder).resolve() for folder in folders]
    for path, folder in zip(paths, folders, strict=True):
        if paths.count(path) > 1:
            raise ConfigError("DIR", folder, "it is given twice; give each folder once")
    others = list(folders)
    if base is not None:
        others = [
            base,
            *(folder for folder, path in zip(folders, paths, strict=True) if path != Path(base).resolve()),
        ]
    if len(others) < 2:
        raise ConfigError("DIR", " ".join(others), "it takes at least two output folders to compare")
    return others


def _names() -> Iterator[str]:
    """Yield A, B, …, Z, AA, AB, …"""
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
        churn=churn_over_seeds([run.answers for run in base.runs], [run.answers for run in other.runs]),
    )


def find_gains(runs: Sequence[ComparedRun]) -> Iterator[Gain]:
    """Yield the gain of each latent run with matched memory over each of its controls that is among `runs`."""
    for matched in runs:
        if not _may_have_controls(matched):
            continue
        controls = [run for run in runs if run.config.memory in GAINS and _settings(run) == _settings(matched)]
        if not controls:
            continue
        if (single := single_for(matched, runs)) is not None:
            yield Gain(kind="gain over single", pair=_pair(single, matched))
        for memory, kind in GAINS.items():
            yield from (Gain(kind=kind, pair=_pair(run, matched)) for run in controls if run.config.memory == memory)


def _may_have_controls(run: ComparedRun) -> bool:
    return run.config.method in ("latent", "text") and run.config.memory == "matched"


def _settings(run: ComparedRun) -> dict[str, Any]:
    """Return the settings that a run and its controls share. A guard that only warns changes no answer."""
    identity = run.config.identity()
    if identity["guard"] == "warn":
        identity["guard"] = "off"
    return {name: value for name, value in identity.items() if name not in _FREE}


def _differing(control: ComparedRun, matched: Sequence[ComparedRun]) -> str:
    """Return the settings in which `control` differs from the most similar of the `matched` runs."""
    settings = _settings(control)
    differing = [[name for name, value in _settings(run).items() if value != settings[name]] for run in matched]
    fewest: list[str] = min(differing, key=len)
    return ", ".join(fewest)


def _notes(runs: Sequence[ComparedRun], pairs: Sequence[PairedRuns]) -> Iterator[str]:
    for run in runs:
        if not run.is_complete:
            yield f"{run.name} is not finished: the questions answered so far are compared; its speed is not known"
        if run.num_resumed:
            yield f"{run.name} was resumed: its speed is that since its last start, without {run.num_resumed} questions"
        if run.num_failed:
            yield f"{run.name} failed on {run.num_failed} questions; they are left out, not counted as wrong"
        if run.num_cut_off:
            num_answers = sum(map(len, run.answers.values()))
            yield f"{run.name} has texts that were cut off in {run.num_cut_off} of {num_answers} answers"
        for votes in (one.summary.votes for one in run.runs if one.summary is not None):
            if votes is not None:
                any_right = "" if votes.any_right is None else f"; any of them is right on {votes.any_right:.1%}"
                answers = sum(one.answers for one in votes.agents.values()) / votes.num_questions
                yield f"{run.name} decides by {votes.rule} among {answers:g} answers to a question{any_right}"
    matched = [run for run in runs if _may_have_controls(run)]
    for run in runs if matched else ():
        if run.config.memory in GAINS and (differing := _differing(run, matched)):
            memory = run.config.memory
            yield f"{run.name} (memory {memory}) is not a control: it also differs from a matched run in {differing}"
    settings = [_settings(run) for run in runs if run.config.memory in ("none", "deranged")]
    if lacking := [run.name for run in matched if run.config.method == "latent" and _settings(run) not in settings]:
        yield f"{', '.join(lacking)}: no gain G or P is shown, without runs with other memory: {HOW_TO_GET}"
    for pair in pairs:
        if pair.paired is None:
            yield f"{pair.other} and {pair.base} have no graded question in common: they cannot be compared"
        elif pair.num_left_out:
            yield (
                f"{pair.other} and {pair.base} are compared on the {pair.paired.num_questions} graded questions of "
                f"both; {pair.num_left_out} of only one of them are left out"
            )
    if all(single_for(run, runs) is None for run in runs):
        yield "No run has method single, so no costs relative to single are shown"
