"""The table of all measured runs, readable at 80 columns: one block per run where a line has no room for it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.text import Text

from latentmas_ray.cli.render.fitted import FittedTable
from latentmas_ray.cli.render.text import printable
from latentmas_ray.units import format_accuracy, format_number, format_rate, format_seconds

if TYPE_CHECKING:
    from latentmas_ray.report.results import ResultRow


def results_table(rows: Sequence["ResultRow"]) -> RenderableType:
    """Return the figures of the runs, then the command of each."""
    from latentmas_ray.report.results.markdown import format_gain, format_method, format_questions

    table = FittedTable(box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("run", style="bold", no_wrap=True)
    for title in ("task", "model", "method", "topology"):
        table.add_column(title, overflow="fold")
    for title in ("questions", "accuracy", "gains, points", "output\ntokens", "all\ntokens", "time", "questions/s"):
        table.add_column(title, justify="right", no_wrap=True)
    for number, row in enumerate(rows, start=1):
        texts = (
            str(number),
            row.task,
            row.model,
            format_method(row),
            row.topology,
            format_questions(row),
            format_accuracy(row.accuracy, row.accuracy_interval),
            "\n".join(map(format_gain, row.gains)) or "-",
            format_number(row.output_tokens),
            format_number(row.total_tokens),
            format_seconds(row.seconds),
            "-" if row.questions_per_second is None else format_rate(row.questions_per_second),
        )
        table.add_row(*(Text(text if "\n" in text else printable(text)) for text in texts))
    commands = [Text(printable(f"  {number} {row.folder}: {row.command}")) for number, row in enumerate(rows, start=1)]
    return Group("", table, *commands)
