"""The table of all measured runs, readable at 80 columns: one block per run where a line has no room for it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.text import Text

from latentmas_ray.cli.render.fitted import FittedTable
from latentmas_ray.cli.render.text import printable

if TYPE_CHECKING:
    from latentmas_ray.report.results import ResultRow


def results_table(rows: Sequence["ResultRow"]) -> RenderableType:
    """Return the figures of the runs, then the command of each."""
    from latentmas_ray.report.results.markdown import cells_of

    table = FittedTable(box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("run", style="bold", no_wrap=True)
    for title in ("task", "model", "method", "topology"):
        table.add_column(title, overflow="fold")
    for title in ("questions", "accuracy", "gains, points", "output\ntokens", "all\ntokens", "time", "questions/s"):
        table.add_column(title, justify="right", no_wrap=True)
    for number, row in enumerate(rows, start=1):
        texts = cells_of(number, row, between_gains="\n")
        table.add_row(*(Text(text if "\n" in text else printable(text)) for text in texts))
    commands = [Text(printable(f"  {number} {row.folder}: {row.command}")) for number, row in enumerate(rows, start=1)]
    return Group("", table, *commands)
