"""The figures of one topology as rows of text, one for each cluster: for terminals and documents."""

from collections.abc import Sequence

from latentmas_ray.simulation.figures import SimulatedRun
from latentmas_ray.units import format_bytes, format_seconds

COLUMNS = (
    "nodes",
    "GPUs",
    "questions",
    "questions/s",
    "% of linear",
    "GPU use",
    "run",
    "network",
    "port",
    "turns/s",
    "drivers",
    "driver's core",
    "drivers, turns/s",
)


def rows_of(runs: Sequence[SimulatedRun]) -> list[tuple[str, ...]]:
    """Return the cells of each run, in the order of COLUMNS. `linear` is the first run's questions/s for each GPU."""
    return [_row(one, runs[0]) for one in runs]


def _row(one: SimulatedRun, first: SimulatedRun) -> tuple[str, ...]:
    linear = one.questions_per_second / one.gpus / (first.questions_per_second / first.gpus)
    return (
        f"{one.nodes}",
        f"{one.gpus}",
        f"{one.questions}",
        f"{one.questions_per_second:.4g}",
        f"{100 * linear:.0f}",
        f"{one.gpu_use:.0%}",
        format_seconds(one.seconds),
        format_bytes(one.network_bytes),
        f"{one.network_use:.0%}",
        f"{one.turns_per_second:.4g}",
        f"{one.drivers}",
        f"{one.driver_share:.1%}",
        f"{one.capacity:.0f}",
    )
