"""`python -m benchmarks scaling`: flags, and the figures as tables."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from benchmarks.scaling.settings import ScalingBenchSettings
from latentmas_ray.cli.commands.bench.measure import measure_and_show
from latentmas_ray.cli.options import whole_numbers

if TYPE_CHECKING:
    from rich.console import RenderableType

    from benchmarks.scaling.measure import ScalingBench


def scaling(
    replicas: Annotated[
        str | None, typer.Option("--replicas", metavar="N,N,…", help="of every agent, with 1 (default: 1,2,4,8)")
    ] = None,
    agents: Annotated[
        int | None, typer.Option("--agents", metavar="N", help="throughput: of the chain (default: 1)")
    ] = None,
    turn_seconds: Annotated[
        float | None, typer.Option("--turn-seconds", metavar="S", help="that every turn takes (default: 1)")
    ] = None,
    batches: Annotated[
        int | None, typer.Option("--batches", metavar="N", help="that every replica gets (default: 5)")
    ] = None,
    repeats: Annotated[
        int | None, typer.Option("--repeats", metavar="N", help="of every measurement (default: 3)")
    ] = None,
    actors: Annotated[
        str | None,
        typer.Option("--actors", metavar="A,A,…", help="that hand over (default: of 4,16,64 what fits)"),
    ] = None,
    throughput: Annotated[
        bool, typer.Option("--throughput/--no-throughput", help="measure questions per second over replicas")
    ] = True,
    hand_overs: Annotated[
        bool, typer.Option("--hand-overs/--no-hand-overs", help="measure what comes between two turns")
    ] = True,
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            metavar="ADDR",
            help="HOST:PORT of a running Ray cluster, or auto; without it that of RAY_ADDRESS, else one is started",
        ),
    ] = None,
    plot: Annotated[str | None, typer.Option("--plot", metavar="FILE.png", help="draw both")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the figures as JSON")] = False,
) -> None:
    """Measure the runtime itself: real actors and the real driver, with timers in place of models.

    Questions per second over the number of replicas, against N times one replica; and what it takes, and costs
    the driver's process, to come from the end of one agent's turn to the beginning of the next one's. docs/scaling.md
    says what the columns mean.
    """
    given = {
        "replicas": None if replicas is None else whole_numbers("replicas", replicas, "1,2,4,8"),
        "agents": agents,
        "turn_seconds": turn_seconds,
        "batches": batches,
        "repeats": repeats,
        "actors": None if actors is None else whole_numbers("actors", actors, "4,16,64"),
        "throughput": throughput,
        "hand_overs": hand_overs,
        "address": address,
        "plot": plot,
    }
    settings = ScalingBenchSettings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    measure_and_show(partial(_measure, settings), _tables, _draw, plot=settings.plot, as_json=as_json)


def _measure(settings: ScalingBenchSettings, say: Callable[[str], None]) -> "ScalingBench":
    from benchmarks.scaling.measure import run  # torch and Ray: only once the flags are valid

    return run(settings, say)


def _tables(outcome: "ScalingBench") -> "RenderableType":
    from benchmarks.scaling.tables import scaling_tables

    return scaling_tables(outcome)


def _draw(outcome: "ScalingBench", plot: str) -> None:
    from benchmarks.scaling.plot import draw

    draw(outcome, plot)
