"""The exact accuracies of the rules as a table."""

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.text import Text

from latentmas_ray.cli.render.fitted import FittedTable
from latentmas_ray.voting.rules import RuleName


def simulated_table(accuracies: Sequence[float], rows: Mapping[int, Mapping[RuleName, float]]) -> RenderableType:
    """Return a row for each number of options K, with accuracies in percent."""
    table = FittedTable(box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("K", justify="right", style="bold")
    for title in next(iter(rows.values())):
        table.add_column(title, justify="right", no_wrap=True)
    for num_options, found in rows.items():
        table.add_row(str(num_options), *(f"{100 * accuracy:.2f}" for accuracy in found.values()))
    said = ", ".join(f"{accuracy:g}" for accuracy in accuracies)
    return Group(
        "",
        Text(f"  {len(accuracies)} independent agents with accuracies {said}; % right, by enumeration"),
        table,
        Text("  sp, isp and ow know the accuracies. Ties are split evenly."),
    )
