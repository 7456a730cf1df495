"""Tables of a study as markdown and as JSON, and what its cells cost."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from examples.training.studies.folder import StudyRow


@dataclass(frozen=True, kw_only=True)
class StudyTable:
    """A table: a title, the names of its columns, and its rows, whose entries are text or numbers."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | float | int]]

    def markdown(self) -> str:
        """Return the title in bold and a table of markdown, ending with a line end."""
        lines = [f"**{self.title}**", "", _line(self.columns), _line(["---"] * len(self.columns))]
        return "\n".join([*lines, *(_line(row) for row in self.rows)]) + "\n"

    def to_json(self) -> dict[str, Any]:
        """Return the table with a mapping from columns to entries for each row."""
        return {"title": self.title, "rows": [dict(zip(self.columns, row, strict=True)) for row in self.rows]}


def cost_line(rows: Iterable[StudyRow]) -> str:
    """Return the number of cells and seeds, their CPU hours, and the CPU minutes of the longest."""
    rows = list(rows)
    seconds = [row.cpu_seconds for row in rows]
    seeds = ", ".join(str(seed) for seed in sorted({row.seed for row in rows}))
    longest = max(seconds, default=0.0) / 60
    return (
        f"{len(rows)} cells, seeds {seeds}: {sum(seconds) / 3600:.2f} CPU hours, the longest cell {longest:.1f} minutes"
    )


def _line(entries: Sequence[str | float | int]) -> str:
    return "| " + " | ".join(str(entry).replace("|", "\\|") for entry in entries) + " |"
