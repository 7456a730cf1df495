"""What memory is worth, as tables: a run's controls, its gains over them, and how many answers change; and what hints
are worth, under each control."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from latentmas_ray.cli.render.fitted import FittedTable
from latentmas_ray.runs.hints.scores import SCORES
from latentmas_ray.units import format_accuracy, format_number, format_p_value, format_percent, format_seconds

if TYPE_CHECKING:
    from latentmas_ray.runs.controls.adoption import AdoptionFigures
    from latentmas_ray.runs.controls.churn import Churn
    from latentmas_ray.runs.controls.summary import ControlsSummary
    from latentmas_ray.runs.hints.scores import HintFigures, HintScores
    from latentmas_ray.runs.multi_seed import SeedsSummary
    from latentmas_ray.runs.results import Summary
    from latentmas_ray.stats import PairedDifference

_MEANINGS = (
    "system gain G = matched − none (the receiver only: the answering agent alone, which reads nothing); "
    "pairing gain P = matched − deranged (as much memory, of another question); in percentage points, with paired "
    "95 % intervals over questions. R→W: the prediction changed, and a right answer became wrong."
)


def controls_table(summary: "ControlsSummary") -> RenderableType:
    """Return the accuracy under each control, the gains, the churn, and how often a wrong fact was adopted."""
    title = Text(f" {summary.method}, {summary.topology}, {summary.model}: {summary.num_questions} questions each")
    parts: list[RenderableType] = [title, _accuracies(summary), _gains(summary)]
    parts.append(churn_table({f"to {name}": found for name, found in summary.churn.items()}, "from matched"))
    parts += _hints(summary)
    if summary.adoption is not None:
        anyway = (
            "" if summary.adopted_anyway is None else f"; {format_percent(summary.adopted_anyway)} without being told"
        )
        parts.append(Text(f" wrong fact: {adoption_text(summary.adoption)}{anyway}"))
    return Group("", *parts, Text(f" {_MEANINGS}"))


def single_runs(summary: "ControlsSummary") -> Iterator["Summary"]:
    """Yield the summary of each run: of each control, or of each of its seeds."""
    from latentmas_ray.runs.multi_seed import SeedsSummary

    for one in summary.runs.values():
        yield from one.runs.values() if isinstance(one, SeedsSummary) else [one]


def adoption_text(figures: "AdoptionFigures") -> str:
    """Return `adopted 40.0% (30.0–50.0), right …, neither …`."""
    adopted = format_accuracy(figures.adopted, figures.adopted_interval)
    right = format_accuracy(figures.right, figures.right_interval)
    return f"adopted in {adopted} of the answers, right {right}, neither {format_percent(figures.neither)}"


def churn_table(pairs: Mapping[str, "Churn"], title: str = "changed") -> Table:
    """Return how many answers change, by the name of each pair of runs; R and W are right and wrong answers whose
    prediction changed."""
    table = _table(title)
    titles = ("of", "prediction", "tokens", "R→W", "W→R", "R→R", "W→W")
    for heading in titles:
        table.add_column(heading, justify="right", no_wrap=True)
    for name, one in pairs.items():
        counts = (one.changed_texts, one.right_to_wrong, one.wrong_to_right, one.right_otherwise, one.wrong_otherwise)
        changed = f"{one.changed} ({format_percent(one.share)})"
        table.add_row(name, format_number(one.num_answers), changed, *map(format_number, counts))
    return table


def questions_text(summary: "Summary | SeedsSummary", hints: "HintFigures | None") -> str:
    """Say how many questions a run has; with hints each is asked once for each of them."""
    more = [] if hints is None else [f"counted once for each of {hints.num_hints} hints"]
    more += [f"{summary.num_failed} failed"] if summary.num_failed else []
    return ", ".join([str(summary.num_questions), *more])


def unit_of(hints: "HintFigures | None") -> str:
    """Return what the figures of a run are per."""
    return "question" if hints is None else "hint"


def hint_rows(figures: "HintFigures") -> Iterator[tuple[str, str]]:
    """Yield what a run with hints says about them, as names and values."""
    answers = f"{figures.num_answers} answer{'s' if figures.num_answers > 1 else ''} with each"
    yield "hints", f"{figures.num_hints} per question ({figures.source}), {answers}"
    for name, text in _shares(figures.scores):
        yield f"  {name}", text
    if figures.num_read:
        yield "leaks", f"{figures.num_leaks} of {figures.num_read} hints contain the gold; they are in these figures"
    else:
        yield "leaks", "unknown: no hint is in words"
    if (rest := figures.without_leaks) is not None:
        shares = ", ".join(f"{name} {text}" for name, text in _shares(rest))
        yield "without them", f"{shares}; {rest.num_questions} questions"


def _shares(scores: "HintScores") -> Iterator[tuple[str, str]]:
    for name, share in scores.shares.items():
        yield name, format_accuracy(share, scores.intervals[name])


def _hints(summary: "ControlsSummary") -> Iterator[RenderableType]:
    """Yield the figures of hints under each control, and the gains over each; nothing in a run without hints."""
    found = {name: hints for run in single_runs(summary) if (hints := run.hints) is not None for name in [run.memory]}
    if not found:
        return
    table, gains = _table("hints"), _table("gain")
    for title in SCORES:
        table.add_column(title, justify="right", no_wrap=True)
        gains.add_column(title, justify="right", no_wrap=True)
    table.add_column("leaks", justify="right", no_wrap=True)
    for name, figures in found.items():
        shares = dict(_shares(figures.scores))
        leaks = f"{figures.num_leaks} of {figures.num_read}" if figures.num_read else "–"
        table.add_row(name, *(shares.get(score, "–") for score in SCORES), leaks)
    for name, by_score in summary.hint_gains.items():
        gains.add_row(f"over {name}", *(_points(by_score[one]) if one in by_score else "–" for one in SCORES))
    yield from (table, gains)


def _points(paired: "PairedDifference") -> str:
    low, high = paired.interval
    return f"{100 * paired.difference:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def _accuracies(summary: "ControlsSummary") -> Table:
    table = _table("memory")
    for title in ("accuracy", "output tokens\nper question", "time"):
        table.add_column(title, justify="right", no_wrap=True)
    for name, run in summary.runs.items():
        interval = getattr(run, "accuracy_interval", None) or getattr(run, "question_interval", None)
        table.add_row(
            name,
            format_accuracy(run.accuracy, interval),
            format_number(run.output_tokens_per_question),
            format_seconds(run.seconds),
        )
    return table


def _gains(summary: "ControlsSummary") -> Table:
    table = _table("gain")
    for title in ("points (95 % interval)", "p", "questions"):
        table.add_column(title, justify="right", no_wrap=True)
    for gain in summary.gains:
        if gain.paired is None:
            table.add_row(gain.kind, "no graded question in common", "", "0")
            continue
        table.add_row(
            gain.kind, _points(gain.paired), format_p_value(gain.paired.p_value), str(gain.paired.num_questions)
        )
    return table


def _table(first: str) -> Table:
    table = FittedTable(box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column(first, style="bold", no_wrap=True)
    return table
