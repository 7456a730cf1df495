"""The figures of `python -m benchmarks scaling` as tables, readable at 80 columns."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from latentmas_ray.cli.render.bench.transfer_tables import make_table
from latentmas_ray.units import format_fine_seconds

if TYPE_CHECKING:
    from benchmarks.scaling.figures import HandOvers, Spread, Throughput
    from benchmarks.scaling.measure import ScalingBench


def scaling_tables(outcome: "ScalingBench") -> RenderableType:
    """All figures: throughput, then what hand-overs take, where that goes, and what they cost the driver."""
    settings = outcome.settings
    nodes = "1 node" if outcome.num_nodes == 1 else f"{outcome.num_nodes} nodes"
    title = f"{outcome.machine}, {nodes}, load before {outcome.load_average:.1f}; turns of {settings.turn_seconds:g} s"
    parts: list[tuple[str, Table]] = []
    if outcome.throughput:
        agents = "one agent" if settings.agents == 1 else f"a chain of {settings.agents} agents"
        heading = (
            f"{agents}, {settings.batches} batches for each replica, medians of {settings.repeats} (aim: 90 % of N)"
        )
        parts.append((heading, _throughput_table(outcome.throughput)))
    if outcome.hand_overs:
        parts += _hand_over_tables(outcome.hand_overs)
    rendered: list[RenderableType] = ["", title]
    for heading, table in parts:
        rendered += ["", Text(heading, style="bold"), table]
    return Group(*rendered)


def _throughput_table(figures: Sequence["Throughput"]) -> Table:
    table = make_table(("actors", "questions/s", "speed-up", "% of N", "% of the\ntimers"), "replicas N")
    for one in figures:
        table.add_row(
            f"{one.replicas}",
            f"{one.actors}",
            f"{one.questions_per_second:.4g}",
            f"{one.speed_up:.2f} ×",
            f"{100 * one.share_of_linear:.0f}",
            f"{100 * one.share_of_timer:.0f}",
        )
    return table


def _hand_over_tables(figures: Sequence["HandOvers"]) -> Iterator[tuple[str, Table]]:
    latency = make_table(
        ("turns/s", "memory\np50", "p99", "text\np50", "p99", "reader\nbusy", "driver's\ncores"), "actors"
    )
    way = make_table(("back", "decide", "there"), "actors")
    driver = make_table(("p50", "p99", "submit", "poll", "free", "rest", "all\nthreads"), "actors")
    for one in figures:
        name = f"{one.actors}, {one.load}"
        latency.add_row(
            name,
            f"{one.turns_per_second:.4g}",
            *_spread(one.memory),
            *_spread(one.text),
            f"{100 * one.busy_readers:.0f} %",
            f"{one.driver.cores:.2f}",
        )
        if one.text_way:
            way.add_row(name, *(format_fine_seconds(spread.p50) for spread in one.text_way.values()))
        parts = (*one.driver.parts.values(), one.driver.process)
        driver.add_row(name, *_spread(one.driver.spread), *map(format_fine_seconds, parts))
    yield "from the end of a turn to the next agent's (aim: p50 of 5 ms)", latency
    yield "where a text is on its way, p50 of each part", way
    yield "processor time of the driver for each turn: its thread, means of its parts, all threads", driver


def _spread(spread: "Spread | None") -> tuple[str, str]:
    return ("–", "–") if spread is None else (format_fine_seconds(spread.p50), format_fine_seconds(spread.p99))
