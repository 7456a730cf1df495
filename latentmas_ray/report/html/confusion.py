"""Who got right what the other got wrong."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

from latentmas_ray.report.html.compared import Difference, make_difference
from latentmas_ray.report.html.entries import Entry, Group
from latentmas_ray.stats import compare_paired

MAX_IDS = 200
_HALF = 0.5  # over seeds, right is what was right in more than half of them


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Some of the questions that two runs have in common."""

    name: str  # both, first, second, neither
    title: str
    ids: tuple[str, ...]
    share: float  # of the questions of both, in percent

    @property
    def shown(self) -> tuple[str, ...]:
        """The first ones; a list of thousands helps nobody."""
        return self.ids[:MAX_IDS]


@dataclass(frozen=True, kw_only=True)
class ConfusionTable:
    """Two runs on the questions that both have graded."""

    first: Entry
    second: Entry
    difference: Difference  # second - first
    cells: tuple[Cell, ...]


def make_confusion_tables(group: Group) -> tuple[ConfusionTable, ...]:
    """Every two runs of a group that have graded questions in common."""
    correct = [(entry, entry.correct()) for entry in group.entries]
    found = (_pair(*first, *second) for first, second in combinations(correct, 2))
    return tuple(pair for pair in found if pair is not None)


def _pair(first: Entry, one: Mapping[str, float], second: Entry, other: Mapping[str, float]) -> ConfusionTable | None:
    ids = [name for name in one if name in other]
    if not ids:
        return None
    wanted = {
        "both": ("both right", True, True),
        "first": (f"only {first.label}", True, False),
        "second": (f"only {second.label}", False, True),
        "neither": ("neither", False, False),
    }
    cells = []
    for name, (title, a, b) in wanted.items():
        members = tuple(found for found in ids if (one[found] > _HALF, other[found] > _HALF) == (a, b))
        cells.append(Cell(name=name, title=title, ids=members, share=round(100 * len(members) / len(ids), 3)))
    paired = compare_paired([one[found] for found in ids], [other[found] for found in ids])
    return ConfusionTable(first=first, second=second, difference=make_difference(paired), cells=tuple(cells))
