"""The figures of `latentmas simulate` as tables, readable at 80 columns."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from latentmas_ray.cli.render.transfer_tables import make_table
from latentmas_ray.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from latentmas_ray.simulation.figures import SimulatedRun, Simulation


def simulation_tables(outcome: "Simulation") -> RenderableType:
    """Return one table for each topology: the run and the driver over the number of nodes."""
    settings = outcome.settings
    title = (
        f"{settings.questions:,} questions in batches of {settings.batch_size}, turns of {settings.think_seconds:g} s "
        f"that think and {settings.write_seconds:g} s that write (± {settings.spread:.0%}), memory of {settings.model}"
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
    columns = (
        "GPUs",
        "questions/s",
        "% of\nlinear",
        "GPU\nuse",
        "run",
        "network",
        "port",
        "turns/s",
        "driver's\ncore",
        "driver,\nturns/s",
    )
    table = make_table(columns, "nodes")
    first = runs[0]
    for one in runs:
        linear = one.questions_per_second / one.gpus / (first.questions_per_second / first.gpus)
        table.add_row(
            f"{one.nodes}",
            f"{one.gpus}",
            f"{one.questions_per_second:.4g}",
            f"{100 * linear:.0f}",
            f"{one.gpu_use:.0%}",
            format_seconds(one.seconds),
            format_bytes(one.network_bytes),
            f"{one.network_use:.0%}",
            f"{one.turns_per_second:.4g}",
            f"{one.driver_share:.1%}",
            f"{one.capacity:.0f}",
        )
    return table
