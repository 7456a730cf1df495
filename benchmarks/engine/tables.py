"""The figures of `python -m benchmarks engine` as a table."""

from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from latentmas_ray.units import format_bytes, format_seconds, format_speed_ratio

if TYPE_CHECKING:
    from benchmarks.engine.measure import BatchFigures, EngineBench


def engine_table(outcome: "EngineBench") -> RenderableType:
    """Each batch size: the engine, the loop, and how many times better."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("batch", no_wrap=True)
    table.add_column("", style="bold", no_wrap=True)
    for title in ("whole\nchain", "prefill", "latent\nstep", "decoded\ntoken", "extra\nmemory"):
        table.add_column(title, justify="right", no_wrap=True)
    for batch in outcome.batches:
        for row in _rows(batch):
            table.add_row(*row)
        table.add_section()
    settings = outcome.settings
    title = (
        f"{settings.model}: {outcome.machine}; {settings.num_agents} agents × {settings.latent_steps} latent steps, "
        f"then {settings.max_new_tokens} tokens; medians of {settings.repeats}"
    )
    return Group("", title, table)


def _rows(batch: "BatchFigures") -> list[tuple[str, ...]]:
    rows = [
        (
            str(batch.batch_size) if name == "engine" else "",
            name,
            format_seconds(side.seconds),
            format_seconds(side.phases["prefill"]),
            format_seconds(side.seconds_per_latent_step),
            format_seconds(side.seconds_per_decoded_token),
            format_bytes(side.extra_bytes),
        )
        for name, side in (("engine", batch.engine), ("loop", batch.baseline))
    ]
    return [*rows, ("", "ratio", format_speed_ratio(batch.speedup), "", "", "", f"{batch.memory_ratio:.2f} ×")]
