"""`latentmas simulate`: its flags, and its figures as tables."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentmas_ray.cli.commands.bench.measure import measure_and_show
from latentmas_ray.cli.commands.bench.settings_flags import settings_flags
from latentmas_ray.simulation.settings import SimulationSettings

if TYPE_CHECKING:
    from rich.console import RenderableType

    from latentmas_ray.simulation.figures import Simulation


@settings_flags(SimulationSettings)
def simulate(
    given: Mapping[str, Any],
    as_json: Annotated[bool, typer.Option("--json", help="print the figures as JSON")] = False,
) -> None:
    """Show how a run would scale over a cluster that you do not have, without starting anything.

    The scheduler and the placement are those of a run; replicas are timers, links are modelled, and time is virtual.
    The driver's processor time is measured meanwhile, so the figures show where it becomes the limit. docs/scaling.md
    explains the columns.
    """
    settings = SimulationSettings(**given)
    measure_and_show(partial(_simulate, settings), _tables, _draw, plot=settings.plot, as_json=as_json)


def _simulate(settings: SimulationSettings, say: Callable[[str], None]) -> "Simulation":
    from latentmas_ray.simulation.run import simulate as run_all

    return run_all(settings, say)


def _tables(outcome: "Simulation") -> "RenderableType":
    from latentmas_ray.cli.render.bench.simulation_tables import simulation_tables

    return simulation_tables(outcome)


def _draw(outcome: "Simulation", plot: str) -> None:
    from latentmas_ray.simulation.plot import draw

    draw(outcome, plot)
