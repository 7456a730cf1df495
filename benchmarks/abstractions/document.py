"""Writes what hints are worth into a document: the sweep of their number, the controls, and the plot next to it."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.abstractions.measure import HintCellFigures
from benchmarks.abstractions.settings import BARE, HintBenchSettings
from benchmarks.generated_part import ModelPart
from latentmas_ray.runs.hints.scores import SCORES, HintScores, ScoreName
from latentmas_ray.units import format_accuracy

if TYPE_CHECKING:
    from latentmas_ray.stats import PairedDifference

_SHOWN: tuple[ScoreName, ...] = ("average", "best hint", "voted")  # columns of the plot
_COLOURS: Mapping[str, str] = {
    "no hint": "#555555",
    "own, text": "#D55E00",
    "own, latent": "#0072B2",
    "oracle, text": "#A87000",
    "oracle, latent": "#009E73",
}
_MARKERS: Mapping[str, str] = {
    "no hint": "x",
    "own, text": "o",
    "own, latent": "s",
    "oracle, text": "^",
    "oracle, latent": "D",
}


def part_of(model: str) -> ModelPart:
    """Return the part of a document with the figures of a model."""
    return ModelPart(command="abstractions", what="hints", model=model)


def write(document: Path, figures: Sequence[HintCellFigures], settings: HintBenchSettings, command: str) -> None:
    """Write the figures of the model into the document, and the plot next to it. Raises RunError."""
    part = part_of(settings.model)
    lines = [
        f"`{command}`, {datetime.now(UTC):%Y-%m-%d}: {part.name}, first {settings.limit} questions of "
        f"each task, temperature {settings.temperature:g}, {settings.latent_steps} latent steps, {settings.budget} "
        "answers to each question.",
        *table(figures, settings),
        "",
        f"![What hints are worth over their number]({part.plot_name})",
    ]
    part.write(document, lines, lambda path: _draw(figures, path))


def table(figures: Sequence[HintCellFigures], settings: HintBenchSettings) -> Iterator[str]:
    """Yield the lines of the tables in Markdown, in percent of the questions, and points of difference."""
    for task in settings.tasks:
        own = [one for one in figures if one.cell.task == task]
        yield from ("", f"`{task}`, over the number of hints m with m · k = {settings.budget}", "")
        yield from _sweep(own)
        if leaks := [one for one in own if one.figures.num_leaks and one.control == "matched"]:
            yield from ("", f"`{task}`, without the hints that contain the gold", "")
            yield from _without_leaks(leaks)
        yield from ("", f"`{task}`, controls with m = {settings.controlled}", "")
        yield from _controls([one for one in own if one.cell.num_hints == settings.controlled])


def _sweep(figures: Sequence[HintCellFigures]) -> Iterator[str]:
    yield _row(("hint", "m", "k", *SCORES, "average − no hint", "voted − no hint", "leaks"))
    yield _row(["---"] + ["---:"] * (len(SCORES) + 5))
    for one in figures:
        if one.control not in ("matched", "none"):
            continue
        yield _row(
            (
                one.cell.name,
                str(one.cell.num_hints),
                str(one.cell.num_answers),
                *_shares(one.figures.scores),
                _points(one.over_bare.get("average")),
                _points(one.over_bare.get("voted")),
                _leaks(one),
            )
        )


def _without_leaks(figures: Sequence[HintCellFigures]) -> Iterator[str]:
    yield _row(("hint", "m", "questions left", *SCORES))
    yield _row(["---"] + ["---:"] * (len(SCORES) + 2))
    for one in figures:
        rest = one.figures.without_leaks
        cells = ["–"] * len(SCORES) if rest is None else _shares(rest)
        yield _row((one.cell.name, str(one.cell.num_hints), str(rest.num_questions if rest else 0), *cells))


def _controls(figures: Sequence[HintCellFigures]) -> Iterator[str]:
    yield _row(("hint", "memory", "average", "voted", "average: matched − this", "voted: matched − this"))
    yield _row(["---"] * 2 + ["---:"] * 4)
    for one in figures:
        if one.cell.source == BARE:
            continue
        shares = dict(zip(SCORES, _shares(one.figures.scores), strict=True))
        yield _row(
            (
                one.cell.name,
                one.control,
                shares["average"],
                shares["voted"],
                _points(one.over_control.get("average")),
                _points(one.over_control.get("voted")),
            )
        )
    for name in dict.fromkeys(one.cell.name for one in figures if one.cell.source != BARE):
        matched = next((one for one in figures if one.cell.name == name and one.control == "matched"), None)
        if matched is None:
            continue
        bare = next(one for one in figures if one.cell.source == BARE)
        shares = dict(zip(SCORES, _shares(bare.figures.scores), strict=True))
        gains = (_points(matched.over_bare.get("average")), _points(matched.over_bare.get("voted")))
        yield _row((name, "none", shares["average"], shares["voted"], *gains))


def _shares(scores: HintScores) -> list[str]:
    return [
        format_accuracy(scores.shares[name], scores.intervals[name]) if name in scores.shares else "–"
        for name in SCORES
    ]


def _points(paired: "PairedDifference | None") -> str:
    if paired is None:
        return "–"
    low, high = paired.interval
    return f"{100 * paired.difference:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def _leaks(one: HintCellFigures) -> str:
    return f"{one.figures.num_leaks} of {one.figures.num_read}" if one.figures.num_read else "–"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _draw(figures: Sequence[HintCellFigures], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    tasks = list(dict.fromkeys(one.cell.task for one in figures))
    picture, panels = pyplot.subplots(
        len(tasks),
        len(_SHOWN),
        figsize=(4 * len(_SHOWN), 3.4 * len(tasks)),
        layout="constrained",
        squeeze=False,
        sharey="row",
    )
    for task, row in zip(tasks, panels, strict=True):
        own = [one for one in figures if one.cell.task == task and one.control in ("matched", "none")]
        for score, panel in zip(_SHOWN, row, strict=True):
            _draw_panel(panel, own, score)
            panel.set(title=f"{task}: {score}")
        row[0].set_ylabel("right, %")
        row[0].legend(fontsize=8)
    for panel in panels[-1]:
        panel.set_xlabel("hints m, at constant m · k")
    picture.savefig(path, dpi=110)
    pyplot.close(picture)


def _draw_panel(panel: Any, figures: Sequence[HintCellFigures], score: ScoreName) -> None:
    names = list(dict.fromkeys(one.cell.name for one in figures))
    for place, name in enumerate(names):
        line = sorted((one for one in figures if one.cell.name == name), key=lambda one: one.cell.num_hints)
        shares = [100 * one.figures.scores.shares[score] for one in line]
        ends = [one.figures.scores.intervals[score] for one in line]
        panel.errorbar(
            [one.cell.num_hints * 1.03 ** (place - len(names) / 2) for one in line],
            shares,
            yerr=[
                [share - 100 * low for share, (low, _) in zip(shares, ends, strict=True)],
                [100 * high - share for share, (_, high) in zip(shares, ends, strict=True)],
            ],
            color=_COLOURS[name],
            marker=_MARKERS[name],
            markersize=4,
            capsize=2,
            label=name,
        )
    panel.set_xscale("log", base=2)
    numbers = sorted({one.cell.num_hints for one in figures})
    panel.set_xticks(numbers, [str(number) for number in numbers])
    panel.minorticks_off()
