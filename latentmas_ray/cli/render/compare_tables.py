"""A comparison of runs as tables, readable at 80 columns."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from latentmas_ray.cli.render.control_tables import churn_table
from latentmas_ray.cli.render.fitted import FittedTable
from latentmas_ray.cli.render.text import printable
from latentmas_ray.units import (
    format_accuracy,
    format_number,
    format_p_value,
    format_rate,
    format_speed_ratio,
    format_times,
)

if TYPE_CHECKING:
    from latentmas_ray.report.compare import Comparison, PairedRuns
    from latentmas_ray.report.compared_run import RunFigures


_BRACKETS = "In brackets: 95 % intervals over questions; multiples of single's tokens. Speeds are against single's"


def comparison_tables(comparison: "Comparison") -> RenderableType:
    """Return the runs, their figures, the differences, the gains over controls, and notes."""
    folders = [Text(printable(f"  {run.name} = {run.folder}")) for run in comparison.runs]
    tables = [_run_table(comparison.runs), _figure_table(comparison.runs)]
    if pairs := [pair for pair in comparison.pairs if pair.paired is not None]:
        tables += [_pair_table([("", pair) for pair in pairs]), _cell_table(pairs)]
        tables.append(churn_table({f"{pair.base} → {pair.other}": pair.churn for pair in pairs}))
    if gains := [gain for gain in comparison.gains if gain.pair.paired is not None]:
        tables.append(_pair_table([(gain.kind, gain.pair) for gain in gains], named=True))
    return Group("", *folders, *tables, *(Text(f"  {note}.") for note in (_BRACKETS, *comparison.notes)))


def answer_lists(pairs: Sequence["PairedRuns"]) -> Iterator[str]:
    """Yield, for each pair of runs, a line with the questions that only one of them got right."""
    for pair in pairs:
        for name, against, ids in (
            (pair.base, pair.other, pair.only_base_ids),
            (pair.other, pair.base, pair.only_other_ids),
        ):
            yield printable(f"{name} right, {against} wrong ({len(ids)}): {', '.join(ids) or '-'}")


def _run_table(runs: Sequence["RunFigures"]) -> Table:
    table = _table("run", "method", "topology", "memory", "model")
    for title in ("seeds", "questions"):
        table.add_column(title, justify="right", no_wrap=True)
    for run in runs:
        memory = run.memory if run.method == "latent" or run.memory != "matched" else "-"  # others hand over none
        texts = (run.name, run.method, run.topology, memory, run.model, str(len(run.seeds)), str(run.num_questions))
        table.add_row(*map(Text, map(printable, texts)))
    return table


def _figure_table(runs: Sequence["RunFigures"]) -> Table:
    table = _table("run")
    for title in ("accuracy", "output tokens\nper question", "all tokens\nper question", "questions/s"):
        table.add_column(title, justify="right", no_wrap=True)
    for run in runs:
        speed = "-" if run.questions_per_second is None else format_rate(run.questions_per_second)
        accuracy = format_accuracy(run.accuracy, run.accuracy_interval)
        if run.accuracy_half_width is not None:
            accuracy += f"\n± {100 * run.accuracy_half_width:.1f} over seeds"
        table.add_row(
            run.name,
            accuracy,
            format_number(run.output_tokens_per_question) + _times(run.output_tokens_to_single),
            format_number(run.total_tokens_per_question) + _times(run.total_tokens_to_single),
            speed + _faster(run.speed_to_single),
        )
    return table


def _pair_table(rows: Sequence[tuple[str, "PairedRuns"]], *, named: bool = False) -> Table:
    """Return differences in percentage points; `named` shows the gain's name instead of the counts."""
    table = _table()
    for title in ("gain", "runs") if named else ("difference",):
        table.add_column(title, no_wrap=True)
    for title in (*(() if named else ("questions", "McNemar p")), "p", "points (95 % interval)"):
        table.add_column(title, justify="right", no_wrap=True)
    for kind, pair in rows:
        assert pair.paired is not None
        low, high = pair.paired.interval
        table.add_row(
            *((kind,) if named else ()),
            f"{pair.other} − {pair.base}",
            *(() if named else (str(pair.paired.num_questions), format_p_value(pair.paired.mcnemar_p_value))),
            format_p_value(pair.paired.p_value),
            f"{100 * pair.paired.difference:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})",
        )
    return table


def _cell_table(pairs: Sequence["PairedRuns"]) -> Table:
    """Return the number of questions that both, one, or none of a pair got right."""
    table = _table("right in")
    for title in ("both", "only the first", "only the second", "neither"):
        table.add_column(title, justify="right", no_wrap=True)
    for pair in pairs:
        assert pair.paired is not None
        cells = pair.paired.cells
        counts = (cells.both, cells.only_base, cells.only_other, cells.neither)
        table.add_row(f"{pair.base} and {pair.other}", *map(format_number, counts))
    return table


def _table(*texts: str) -> Table:
    table = FittedTable(box=box.SIMPLE_HEAD, padding=(0, 1))
    for text in texts:
        is_name = text == "run"
        table.add_column(text, overflow="fold", style="bold" if is_name else None, no_wrap=is_name)
    return table


def _faster(ratio: float | None) -> str:
    return "" if ratio is None else f"\n{format_speed_ratio(ratio)}"


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f" ({format_times(ratio)}×)"
