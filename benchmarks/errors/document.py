"""Writes how errors spread into a document: a table for each task, and the plot next to it."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.errors.measure import ErrorFigures
from benchmarks.errors.settings import ErrorsBenchSettings
from benchmarks.generated_part import ModelPart
from latentmas_ray.units import format_accuracy, format_percent, format_spread

_TITLES = ("agents between", "agents", "adopted", "right", "neither", "adopted, − text", "right, without the error")
_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#B8578F", "#A87000")


def part_of(model: str) -> ModelPart:
    """Return the part of a document with the figures of a model."""
    return ModelPart(command="errors", what="errors", model=model)


def write(document: Path, figures: Sequence[ErrorFigures], settings: ErrorsBenchSettings, command: str) -> None:
    """Write the figures of the model into the document, and the plot next to it. Raises RunError."""
    part = part_of(settings.model)
    part.write(document, _lines(figures, settings, command), lambda path: _draw(figures, path))


def table(figures: Sequence[ErrorFigures]) -> Iterator[str]:
    """Yield the lines of the tables in Markdown, in percent of the answers."""
    for task in dict.fromkeys(one.cell.task for one in figures):
        yield from ("", f"`{task}`", "", _row(_TITLES), _row(["---:"] * len(_TITLES)))
        for one in figures:
            if one.cell.task == task:
                yield _row(_cells(one))


def _lines(figures: Sequence[ErrorFigures], settings: ErrorsBenchSettings, command: str) -> Iterator[str]:
    yield (
        f"`{command}`, {datetime.now(UTC):%Y-%m-%d}: {Path(settings.model).name}, first {settings.limit} questions, "
        f"greedy, {settings.latent_steps} latent steps."
    )
    yield from table(figures)
    yield from ("", f"![Adoption over the number of agents between]({part_of(settings.model).plot_name})")


def _cells(one: ErrorFigures) -> list[str]:
    found, paired = one.summary.adoption, one.over_text
    agents = "text" if one.cell.method == "text" else f"latent, guard {one.cell.guard}"
    matched = one.summary.runs["matched"]
    if found is None:
        return [str(one.cell.between), agents, "no answer", *[""] * (len(_TITLES) - 3)]
    difference = "–"
    if paired is not None:
        low, high = paired.interval
        difference = f"{100 * paired.difference:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
    return [
        str(one.cell.between),
        agents,
        format_accuracy(found.adopted, found.adopted_interval),
        format_accuracy(found.right, found.right_interval),
        format_percent(found.neither),
        difference,
        format_spread(matched.accuracy, None),
    ]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _draw(figures: Sequence[ErrorFigures], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    tasks = list(dict.fromkeys(one.cell.task for one in figures))
    picture, panels = pyplot.subplots(
        1, len(tasks), figsize=(5 * len(tasks), 3.8), layout="constrained", squeeze=False, sharey=True
    )
    for task, panel in zip(tasks, panels[0], strict=True):
        own = [one for one in figures if one.cell.task == task and one.summary.adoption is not None]
        lines = list(dict.fromkeys((one.cell.method, one.cell.guard) for one in own))
        for number, (method, guard) in enumerate(lines):
            line = [one for one in own if (one.cell.method, one.cell.guard) == (method, guard)]
            shown = [one.summary.adoption for one in line if one.summary.adoption is not None]
            ends = [one.adopted_interval for one in shown]
            panel.errorbar(
                [one.cell.between + 0.06 * (number - len(lines) / 2) for one in line],
                [100 * one.adopted for one in shown],
                yerr=[
                    [100 * (one.adopted - low) for one, (low, _) in zip(shown, ends, strict=True)],
                    [100 * (high - one.adopted) for one, (_, high) in zip(shown, ends, strict=True)],
                ],
                color=_COLOURS[number % len(_COLOURS)],
                marker="os^Dv"[number % len(_COLOURS)],
                markersize=4,
                capsize=2,
                label=method if method == "text" else f"latent, guard {guard}",
            )
        panel.set(title=task, xlabel="agents that know it right, between", ylim=(-2, 102))
        panel.set_xticks(sorted({one.cell.between for one in own}))
        panel.legend(fontsize=8)
    panels[0][0].set_ylabel("answers that adopt the error, %")
    picture.savefig(path, dpi=110)
    pyplot.close(picture)
