"""The runs of a group set beside one another by `report.compare`: costs in relation to one agent, and gains over
controls."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from latentmas_ray.report.compare import Comparison, compare_folders
from latentmas_ray.report.compared_run import RunFigures
from latentmas_ray.report.html.entries import Entry, Group
from latentmas_ray.report.html.figures import Figure, number, probability, signed_points
from latentmas_ray.stats import PairedDifference


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How much better one run is than another on the same questions."""

    difference: Figure
    low: Figure
    high: Figure
    p_value: Figure
    num_questions: Figure


@dataclass(frozen=True, kw_only=True)
class GainRow:
    """What a run with its own memory gains over one without it."""

    kind: str
    matched: Entry
    control: Entry
    difference: Difference | None  # None where the two have no graded question in common


@dataclass(frozen=True)
class Compared:
    """A group with its comparison."""

    group: Group

    @cached_property
    def _entries(self) -> tuple[Entry, ...]:
        return tuple(entry for entry in self.group.entries if any(run.answers for run in entry.runs))

    @cached_property
    def _comparison(self) -> Comparison | None:
        """None where there are not two runs. Raises JournalError for runs of different questions under the same ids."""
        return compare_folders([str(_folder(entry)) for entry in self._entries]) if len(self._entries) > 1 else None

    def costs(self, entry: Entry) -> RunFigures | None:
        """What `entry` costs in relation to one agent alone."""
        if self._comparison is None or entry not in self._entries:
            return None
        return self._comparison.runs[self._entries.index(entry)]

    def gains(self) -> tuple[GainRow, ...]:
        """Of every matched run over each of its controls."""
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


def make_difference(paired: PairedDifference) -> Difference:
    """The figures of a paired difference: other − base."""
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


def _folder(entry: Entry) -> Path:
    """The folder that was given: that of the run, or the one around those of its seeds."""
    folder = entry.given[0].folder
    return folder if len(entry.given) == 1 else folder.parent
