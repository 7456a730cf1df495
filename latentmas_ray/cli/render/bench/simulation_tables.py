"""The figures of `latentmas simulate` as tables, readable at 80 columns."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from latentmas_ray.cli.render.bench.transfer_tables import make_table
from latentmas_ray.simulation.table import COLUMNS, rows_of

if TYPE_CHECKING:
    from latentmas_ray.simulation.figures import SimulatedRun, Simulation

_IN_TWO_LINES = {
    "% of linear": ("% of", "linear"),
    "GPU use": ("GPU", "use"),
    "drivers": ("dri-", "vers"),
    "driver's core": ("driver's", "core"),
    "drivers, turns/s": ("drivers,", "turns/s"),
}


def simulation_tables(outcome: "Simulation") -> RenderableType:
    """Return one table for each topology: the run and the driver over the number of nodes."""
    settings = outcome.settings
    title = (
        f"{settings.questions:,} questions in batches of {settings.batch_size}, {settings.turns_in_words} "
        f"(± {settings.spread:.0%}), memory of {settings.model}"
    )
    charged = "passes" if settings.driver == "charged" else "does not pass"
    about = (
        f"driver: processor time of {outcome.machine}, and {1000 * settings.runtime_seconds:g} ms a turn for calls to "
        f"Ray; virtual time {charged} with it"
    )
    rendered: list[RenderableType] = ["", title, about]
    for name in dict.fromkeys(one.topology for one in outcome.runs):
        runs = [one for one in outcome.runs if one.topology == name]
        rendered += ["", Text(name, style="bold"), _table(runs)]
    return Group(*rendered)


def _table(runs: Sequence["SimulatedRun"]) -> Table:
    # The number of questions is left out: the run's seconds and questions/s say it.
    shown = [number for number, name in enumerate(COLUMNS) if name != "questions"]
    first, *others = ("\n".join(_IN_TWO_LINES.get(COLUMNS[number], (COLUMNS[number],))) for number in shown)
    table = make_table(others, first)
    for row in rows_of(runs):
        table.add_row(*(row[number] for number in shown))
    return table
