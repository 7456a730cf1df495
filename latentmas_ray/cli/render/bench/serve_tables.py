"""The figures of `latentmas bench serve` as tables, readable at 60 columns."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from latentmas_ray.cli.render.bench.transfer_tables import make_table
from latentmas_ray.units import format_bytes, format_fine_seconds, format_number, format_rate

if TYPE_CHECKING:
    from latentmas_ray.bench.serve.figures import LoadFigures, Percentiles
    from latentmas_ray.bench.serve.measure import ServeBench
    from latentmas_ray.bench.serve.server_processes import MemorySample


def serve_tables(outcome: "ServeBench") -> RenderableType:
    """Return all figures: for each model times, rates and errors by load; then the soak and the memory."""
    rendered: list[RenderableType] = ["", outcome.machine]
    for heading, table in _parts(outcome):
        rendered += ["", *([Text(heading, style="bold")] if heading else []), table]
    return Group(*rendered)


def _parts(outcome: "ServeBench") -> Iterator[tuple[str, RenderableType]]:
    for model in dict.fromkeys(one.model for one in outcome.loads):
        own = [one for one in outcome.loads if one.model == model]
        yield f"{model}: seconds until the first token, and until the whole answer", _time_table(own)
        yield f"{model}: a second, and of a request", _rate_table(own)
    if outcome.soak is not None:
        soak = outcome.soak
        yield f"soak: {soak.minutes:g} min, {soak.concurrency} clients, all models in turn", _soak_table(soak.loads)
        if outcome.memory:
            yield "", Text(f"growth of memory after its first quarter: {_signed_bytes(soak.growth_bytes)}")
    every = [*outcome.loads, *(outcome.soak.loads if outcome.soak else ())]
    if errors := [*_error_lines(every)]:
        yield "not answered", Text("\n".join(errors))
    if outcome.memory:
        yield "resident memory of the server's processes", _memory_table(outcome.memory)


def _time_table(loads: Sequence["LoadFigures"]) -> Table:
    table = make_table(("first\np50", "p95", "p99", "whole\np50", "p95", "p99"), "")
    for one in loads:
        table.add_row(one.load, *_times(one, one.first_token), *_times(one, one.whole))
    return table


def _times(load: "LoadFigures", times: "Percentiles") -> tuple[str, str, str]:
    if not load.num_answered:
        return "–", "–", "–"
    return format_fine_seconds(times.p50), format_fine_seconds(times.p95), format_fine_seconds(times.p99)


def _rate_table(loads: Sequence["LoadFigures"]) -> Table:
    columns = ("answers", "good-\nput", "output\ntokens", "CPU s", "latent\nsteps", "failed", "changed")
    table = make_table(columns, "")
    for one in loads:
        table.add_row(
            one.load,
            format_rate(one.answered_per_second),
            format_rate(one.goodput),
            format_rate(one.output_tokens_per_second),
            "–" if one.cpu_seconds is None else format_number(one.cpu_seconds),
            format_number(one.latent_steps),
            str(one.num_requests - one.num_answered),
            str(one.num_changed),
        )
    return table


def _soak_table(loads: Sequence["LoadFigures"]) -> Table:
    table = make_table(("requests", "failed", "changed", "first\np50", "p99", "whole\np50", "p99"), "")
    for one in loads:
        first, whole = _times(one, one.first_token), _times(one, one.whole)
        times = (first[0], first[2], whole[0], whole[2])
        failed = one.num_requests - one.num_answered
        table.add_row(one.model, str(one.num_requests), str(failed), str(one.num_changed), *times)
    return table


def _error_lines(loads: Sequence["LoadFigures"]) -> Iterator[str]:
    for one in loads:
        if one.errors:
            kinds = ", ".join(f"{count} × {kind}" for kind, count in one.errors.items())
            yield f"{one.model}, {one.load}: {kinds}"


def _memory_table(samples: Sequence["MemorySample"]) -> Table:
    table = make_table(("server", "actors", "number", "open\nfiles"), "")
    highest = max(samples, key=lambda one: one.server_bytes + one.actor_bytes)
    for name, one in (("first", samples[0]), ("highest", highest), ("last", samples[-1])):
        memory = (format_bytes(one.server_bytes), format_bytes(one.actor_bytes))
        table.add_row(name, *memory, str(one.num_actors), str(one.num_files))
    return table


def _signed_bytes(value: float) -> str:
    return f"{'−' if value < 0 else '+'}{format_bytes(abs(value))}"
