"""The figures of `serve-overhead` and `serve-first-token` as a table, and as a part of a document."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.generated_part import GeneratedPart, table_lines
from benchmarks.serving.first_token import FirstTokenOutcome
from benchmarks.serving.overhead import OverheadOutcome
from latentmas_ray.units import format_fine_seconds

_PARTS = (
    ("total", "all processes"),
    ("process", "the process with the scheduler"),
    ("actors", "actors"),
    ("ray", "Ray's own"),
)


def document_part(command: str) -> GeneratedPart:
    """Return the part of a document that a command writes: `serve-overhead` or `serve-first-token`."""
    begin = f"<!-- `python -m benchmarks {command}` writes this part -->\n"
    return GeneratedPart(begin=begin, end=f"<!-- end of {command} -->\n", what=f"the figures of {command}")


def overhead_lines(outcome: OverheadOutcome, command: str) -> list[str]:
    """Return the figures of serving over the batch driver as Markdown."""
    settings, count = outcome.settings, outcome.output_tokens
    rows = [("CPU seconds", "server", "batch driver", "server / driver"), ("---", "---:", "---:", "---:")]
    for name, label in _PARTS:
        server, driver = ([getattr(one.cpu, name) for one in outcome.of(way)] for way in ("server", "driver"))
        ratio = f"{median(server) / median(driver):.3f}" if median(driver) else "–"
        rows.append((label, _spread(server), _spread(driver), f"**{ratio}**" if name == "total" else ratio))
    ratios = sorted(outcome.ratios)
    return [
        f"`{command}`: {settings.limit} questions of `{settings.task}`, each answered with {count} tokens "
        f"by {Path(settings.model).name} without end tokens ({settings.dtype}), {settings.topology}, "
        f"{settings.latent_steps} latent steps, batches of {settings.batch_size}, {settings.decode_batch} texts at the "
        f"same time, {outcome.most_questions} questions in flight in both; {outcome.num_measured} answers of a round, "
        f"while all places were taken. {settings.repeats} rounds of each, in turn, on the same actors: medians, and "
        f"least to most. {outcome.machine}.",
        "",
        *table_lines(rows),
        "",
        f"Server over driver, round by round: {ratios[0]:.3f} to {ratios[-1]:.3f}. With the beginning and the end of "
        f"the rounds, where batches are not full: {outcome.whole_ratio:.3f}. {outcome.num_equal} of "
        f"{outcome.num_compared} streamed answers are those of the driver.",
    ]


def first_token_lines(outcome: FirstTokenOutcome, command: str) -> list[str]:
    """Return the times to the first token as Markdown."""
    settings, ratios = outcome.settings, outcome.ratios
    few = len(ratios) // 20
    rows: list[tuple[str, ...]] = [("first token", "median", "nine of ten within"), ("---", "---:", "---:")]
    for name, label in (("ask", "`ask`, an observer in the process"), ("stream", "a stream over HTTP")):
        times = sorted(getattr(one, name) for one in outcome.pairs)
        rows.append((label, *map(format_fine_seconds, (median(times), times[(9 * len(times) - 1) // 10]))))
    return [
        f"`{command}`: {settings.limit} questions of `{settings.task}` to {Path(settings.model).name} "
        f"({settings.dtype}), {settings.topology}, {settings.latent_steps} latent steps, one at a time, each asked "
        f"both ways in turn on the same actors. {outcome.machine}.",
        "",
        *table_lines(rows),
        "",
        f"Stream over `ask`: **{outcome.ratio:.3f}** of the medians; nine of ten questions between "
        f"{ratios[few]:.3f} and {ratios[-1 - few]:.3f}, median {median(ratios):.3f}. A stream's first token comes "
        f"{format_fine_seconds(outcome.difference)} later (median).",
    ]


def _spread(values: Sequence[float]) -> str:
    return f"{median(values):.2f} ({min(values):.2f}–{max(values):.2f})"
