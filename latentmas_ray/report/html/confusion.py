"""Who got right what the other got wrong."""

from dataclasses import dataclass
from itertools import combinations

from latentmas_ray.report.html.entries import Entry, Group

MAX_IDS = 200


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
class Pair:
    """Two runs, with their first seeds, on the questions that both have graded."""

    first: Entry
    second: Entry
    num_questions: int
    cells: tuple[Cell, ...]


def make_pairs(group: Group) -> tuple[Pair, ...]:
    """Every two runs of a group that have graded questions in common, with the same gold."""
    found = (_pair(first, second) for first, second in combinations(group.entries, 2))
    return tuple(pair for pair in found if pair is not None)


def _pair(first: Entry, second: Entry) -> Pair | None:
    golds = {answer.id: answer.gold for answer in second.runs[0].answers}
    common = {answer.id for answer in first.runs[0].answers if answer.id in golds and answer.gold == golds[answer.id]}
    one, other = first.graded(), second.graded()
    ids = [name for name in one if name in other and name in common]
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
        members = tuple(found for found in ids if (one[found], other[found]) == (a, b))
        cells.append(Cell(name=name, title=title, ids=members, share=round(100 * len(members) / len(ids), 3)))
    return Pair(first=first, second=second, num_questions=len(ids), cells=tuple(cells))
