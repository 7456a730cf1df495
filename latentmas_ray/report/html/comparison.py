"""Compares the runs of a group: costs relative to one agent, gains over controls, and answers of pairs of runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path

from latentmas_ray.report.compare import Comparison, compare_folders
from latentmas_ray.report.compared_run import RunFigures
from latentmas_ray.report.html.entries import Entry, Group
from latentmas_ray.report.html.figures import Figure, number, probability, signed_points
from latentmas_ray.runs.controls.gains import PAIRING_GAIN, SYSTEM_GAIN
from latentmas_ray.runs.controls.names import HOW_TO_GET
from latentmas_ray.stats import PairedDifference, compare_paired, ids_by_verdict

MAX_IDS = 200
_HEADLINE_GAINS = {
    SYSTEM_GAIN: "system gain G (over no memory)",
    PAIRING_GAIN: "pairing gain P (over another question's memory)",
}


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The difference in accuracy of two runs on the same questions."""

    difference: Figure
    low: Figure
    high: Figure
    p_value: Figure
    num_questions: Figure


@dataclass(frozen=True, kw_only=True)
class GainRow:
    """The gain of a run with matched memory over one without it."""

    kind: str
    matched: Entry
    control: Entry
    difference: Difference | None  # None if the two have no graded question in common


@dataclass(frozen=True, kw_only=True)
class Cell:
    """The questions of two runs that both, only one, or neither answered correctly."""

    name: str  # both, first, second, neither
    title: str
    ids: tuple[str, ...]
    share: float  # of the common questions, in percent

    @property
    def shown(self) -> tuple[str, ...]:
        """The first MAX_IDS ids: a list of thousands is useless."""
        return self.ids[:MAX_IDS]


@dataclass(frozen=True, kw_only=True)
class RunPair:
    """Two runs, compared on the graded questions of both."""

    first: Entry
    second: Entry
    difference: Difference  # second - first
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Compared:
    """A group with its comparison."""

    group: Group

    @cached_property
    def _entries(self) -> tuple[Entry, ...]:
        return tuple(entry for entry in self.group.entries if any(run.answers for run in entry.runs))

    @cached_property
    def _comparison(self) -> Comparison | None:
        """The comparison; None for fewer than two runs. Raises JournalError for different questions under one id."""
        return compare_folders([str(_folder(entry)) for entry in self._entries]) if len(self._entries) > 1 else None

    def costs(self, entry: Entry) -> RunFigures | None:
        """Return the costs of `entry` relative to one agent alone."""
        if self._comparison is None or entry not in self._entries:
            return None
        return self._comparison.runs[self._entries.index(entry)]

    def gain_sentences(self) -> tuple[str, ...]:
        """Return what memory is worth to each latent run with matched memory, for the headline: G and P, or how to get
        them."""
        said, without = [], []
        by_run: dict[str, list[GainRow]] = {}
        for row in self.gains():
            by_run.setdefault(row.matched.key, []).append(row)
        for entry in self._entries:
            if entry.config.method != "latent" or entry.config.memory != "matched":
                continue
            rows = [row for row in by_run.get(entry.key, ()) if row.difference and row.kind in _HEADLINE_GAINS]
            parts = [f"{_HEADLINE_GAINS[row.kind]} {_points(row.difference)}" for row in rows if row.difference]
            if parts:
                said.append(f"{entry.label}: {'; '.join(parts)}.")
            elif entry.accuracy.value is not None:
                without.append(entry.label)
        if without:
            said.append(f"What memory is worth is not measured for {', '.join(without)}: {HOW_TO_GET}.")
        return tuple(said)

    def gains(self) -> tuple[GainRow, ...]:
        """Return the gains of every matched run over each of its controls."""
        if self._comparison is None:
            return ()
        by_name = {run.name: entry for run, entry in zip(self._comparison.runs, self._entries, strict=True)}
        return tuple(
            GainRow(
                kind=gain.kind,
                matched=by_name[gain.pair.other],
                control=by_name[gain.pair.base],
                difference=None if gain.pair.paired is None else make_difference(gain.pair.paired),
            )
            for gain in self._comparison.gains
        )


def make_pairs(group: Group) -> tuple[RunPair, ...]:
    """Return all pairs of runs of a group with graded questions in common."""
    correct = [(entry, entry.correct()) for entry in group.entries]
    found = (_pair(*first, *second) for first, second in combinations(correct, 2))
    return tuple(pair for pair in found if pair is not None)


def make_difference(paired: PairedDifference) -> Difference:
    """Return the figures of a paired difference: other − base."""
    difference, low, high = (
        Figure(value=value, text=signed_points(value)) for value in (paired.difference, *paired.interval)
    )
    return Difference(
        difference=difference,
        low=low,
        high=high,
        p_value=Figure(value=paired.p_value, text=probability(paired.p_value)),
        num_questions=Figure(value=paired.num_questions, text=number(paired.num_questions)),
    )


def _pair(first: Entry, one: Mapping[str, float], second: Entry, other: Mapping[str, float]) -> RunPair | None:
    ids = [name for name in one if name in other]
    if not ids:
        return None
    wanted = {
        "both": ("both right", True, True),
        "first": (f"only {first.label}", True, False),
        "second": (f"only {second.label}", False, True),
        "neither": ("neither", False, False),
    }
    by_verdict, cells = ids_by_verdict(one, other), []
    for name, (title, a, b) in wanted.items():
        members = by_verdict[a, b]
        cells.append(Cell(name=name, title=title, ids=members, share=round(100 * len(members) / len(ids), 3)))
    paired = compare_paired([one[found] for found in ids], [other[found] for found in ids])
    return RunPair(first=first, second=second, difference=make_difference(paired), cells=tuple(cells))


def _points(one: Difference) -> str:
    return f"{one.difference.text} points (95 % interval {one.low.text} to {one.high.text})"


def _folder(entry: Entry) -> Path:
    """Return the folder of the run, or the one that has the folders of its seeds."""
    folder = entry.given[0].folder
    return folder if len(entry.given) == 1 else folder.parent
