"""The figures of `latentmas bench answer` as tables, readable at 60 columns."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from latentmas_ray.cli.render.bench.transfer_tables import make_table
from latentmas_ray.units import (
    format_bytes,
    format_fine_seconds,
    format_number,
    format_percent,
    format_rate,
    format_speed_ratio,
    format_times,
)

if TYPE_CHECKING:
    from latentmas_ray.bench.answer.engines import TextSpeedFigures
    from latentmas_ray.bench.answer.measure import AnswerBench
    from latentmas_ray.bench.answer.methods import MethodFigures
    from latentmas_ray.bench.answer.questions import Delay

_PARTS = {"thinking": "thinking", "hand_over": "exposed\nhand-over", "prefill": "prefill", "decode": "decode"}


def answer_tables(outcome: "AnswerBench") -> RenderableType:
    """Return all figures: engines on texts of seeded lengths, then for each task the methods and their parts."""
    settings = outcome.settings
    parts = [*_engine_tables(outcome)]
    for task in settings.tasks:
        parts += _method_tables(task, [one for one in outcome.methods if one.task == task])
    rendered: list[RenderableType] = ["", f"{settings.model}: {outcome.machine}"]
    for heading, table in parts:
        rendered += ["", *([Text(heading, style="bold")] if heading else []), table]
    return Group(*rendered)


def _engine_tables(outcome: "AnswerBench") -> Iterator[tuple[str, RenderableType]]:
    engines, settings = outcome.engines, outcome.settings
    if not engines:
        return
    lengths = f"{settings.min_new_tokens} to {settings.max_new_tokens} tokens"
    first = engines[0].engine
    yield (
        f"{settings.questions} texts of {lengths}, {settings.batch_size} at the same time; medians of "
        f"{settings.repeats}; ratios to {first}, above 1 is faster",
        _speed_table(engines),
    )
    yield "seconds since all questions were there, until they could be read; memory", _delay_table(engines)


def _speed_table(engines: Sequence["TextSpeedFigures"]) -> Table:
    table = make_table(("tokens/s", "ratio", "CPU\nseconds", "ratio", "same\ntexts"), "")
    for one in engines:
        table.add_row(
            one.engine,
            format_rate(one.tokens_per_second),
            format_times(one.speedup),
            format_fine_seconds(one.cpu_seconds),
            format_times(one.cpu_speedup),
            format_percent(one.same_texts),
        )
    return table


def _delay_table(engines: Sequence["TextSpeedFigures"]) -> Table:
    columns = ("first\ntoken", "p99", "whole\ntext", "p99", "peak\nmemory", "above\nrest")
    table = make_table(columns, "")
    for one in engines:
        memory = (format_bytes(one.peak_bytes), format_bytes(one.extra_bytes))
        table.add_row(one.engine, *_delay(one.first_token), *_delay(one.whole_text), *memory)
    return table


def _delay(delay: "Delay") -> tuple[str, str]:
    return format_fine_seconds(delay.p50_seconds), format_fine_seconds(delay.p99_seconds)


def _method_tables(task: str, figures: Sequence["MethodFigures"]) -> Iterator[tuple[str, RenderableType]]:
    if not figures:
        return
    engine = figures[0].engine
    # Two tables: one would be too wide for a narrow terminal, where rows cannot be compared any more.
    yield f"{task}: {figures[0].num_questions} questions, text by {engine}; work per question", _work_table(figures)
    yield f"{task}: speed", _duration_table(figures)
    yield f"{task}: seconds per question by part, over all agents (they work at the same time)", _part_table(figures)
    if lines := [*_comparisons(figures)]:
        yield "", Text("\n".join(lines))


def _work_table(figures: Sequence["MethodFigures"]) -> Table:
    table = make_table(("method", "right", "latent\nsteps", "output\ntokens"), "at a\ntime")
    for one in figures:
        table.add_row(
            str(one.concurrency),
            one.method,
            "–" if one.accuracy is None else format_percent(one.accuracy),
            format_number(one.latent_steps),
            format_number(one.output_tokens),
        )
    return table


def _duration_table(figures: Sequence["MethodFigures"]) -> Table:
    columns = ("method", "questions\n/s", "seconds/\nquestion", "until\nanswer", "p99")
    table = make_table(columns, "at a\ntime")
    for one in figures:
        table.add_row(
            str(one.concurrency),
            one.method,
            format_rate(one.questions_per_second),
            format_fine_seconds(one.seconds_per_question),
            *_delay(one.delay),
        )
    return table


def _part_table(figures: Sequence["MethodFigures"]) -> Table:
    table = make_table(("method", *_PARTS.values()), "at a\ntime")
    for one in figures:
        cells = [format_fine_seconds(getattr(one.parts, name)) for name in _PARTS]
        table.add_row(str(one.concurrency), one.method, *cells)
    return table


def _comparisons(figures: Sequence["MethodFigures"]) -> Iterator[str]:
    """Yield, for each concurrency, how fast the latent agents are next to one alone, and where a loss comes from."""
    single = {one.concurrency: one for one in figures if one.method == "single"}
    for one in figures:
        other = single.get(one.concurrency)
        if one.method != "latent" or other is None:
            continue
        ratio = other.seconds_per_question / one.seconds_per_question
        line = f"{one.concurrency} at a time, latent next to single: {format_speed_ratio(ratio)}"
        if ratio < 1:
            more = {name: getattr(one.parts, name) - getattr(other.parts, name) for name in _PARTS}
            told = ", ".join(
                f"{' '.join(_PARTS[name].split())} {'+' if value >= 0 else '−'}{format_fine_seconds(abs(value))}"
                for name, value in more.items()
            )
            line += f"; per question {told}"
        yield line
