"""The cost of each agent and each hand-over, as two tables that fit into 80 columns."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from latentmas_ray.cli.render.fitted import FittedTable
from latentmas_ray.units import format_bytes, format_figure, format_seconds

if TYPE_CHECKING:
    from latentmas_ray.runs.results import TransferStats

_PER_QUESTION = "_seconds_per_question"
_PER_BATCH = "_seconds"
# Figures of hand-overs, which have their own table.
_ELSEWHERE = ("read_bytes", "moved_bytes", "transfer_seconds", "exposed_seconds")


def agent_tables(agents: Mapping[str, Mapping[str, float]]) -> Iterator[Table]:
    """Yield a table with a row per agent: its tokens per question, its share of the time, and its time per batch."""
    names = dict.fromkeys(name for figures in agents.values() for name in figures if not name.startswith(_ELSEWHERE))
    # Leave out figures that are zero for all agents.
    shown = [name for name in names if any(figures.get(name) for figures in agents.values())]
    for ending, title in (("", "per question"), (_PER_QUESTION, "time per question"), (_PER_BATCH, "time per batch")):
        columns = [name for name in shown if _ending(name) == ending]
        if not columns:
            continue
        table = FittedTable(box=box.SIMPLE_HEAD, padding=(0, 1))
        table.add_column(title, style="bold", overflow="fold")
        for name in columns:
            table.add_column(_heading(name), justify="right", no_wrap=True)
        for agent, figures in agents.items():
            cells = [format_figure(name.removesuffix("_per_question"), figures.get(name, 0)) for name in columns]
            table.add_row(Text(agent), *cells)
        yield table


def hand_over_table(hand_overs: Sequence["TransferStats"]) -> Iterator[Table]:
    """Yield a table with a row per pair of source and reader; none if nothing was handed over."""
    if not hand_overs:
        return
    table = FittedTable(box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("hand-over", style="bold", overflow="fold")
    for title in ("bytes per\nquestion", "of them\nmoved", "time per\nbatch", "of it\nexposed"):
        table.add_column(title, justify="right", no_wrap=True)
    for found in hand_overs:
        table.add_row(
            Text(f"{found.source} → {found.reader}"),
            format_bytes(found.num_bytes),
            format_bytes(found.moved_bytes),
            format_seconds(found.transfer_seconds),
            format_seconds(found.exposed_seconds),
        )
    yield table


def _ending(name: str) -> str:
    return next((ending for ending in (_PER_QUESTION, _PER_BATCH) if name.endswith(ending)), "")


def _heading(name: str) -> str:
    return name.removesuffix(_ending(name)).removesuffix("_bytes").replace("_", " ")
