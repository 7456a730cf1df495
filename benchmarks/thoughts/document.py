"""Writes the table of a model into a document, with its plots next to it. Every model has a part of its own."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.generated_part import GeneratedPart, table_lines
from benchmarks.thoughts.cells import ThoughtBenchSettings, num_converging
from benchmarks.thoughts.figures import CellFigures, read_convergence, read_figures
from benchmarks.thoughts.plot import draw_curves
from latentmas_ray.bench.plot import check_matplotlib
from latentmas_ray.stats import PairedDifference

_NAMES = {"deranged": "P", "none": "G"}


def prepare_document(settings: ThoughtBenchSettings, document: Path) -> None:
    """Make sure that the part can be written: a document without it gets an empty one at its end. Raises
    ConfigError."""
    check_matplotlib(str(document))
    part = _part(settings)
    if document.is_file() and part.begin not in document.read_text():
        document.write_text(f"{document.read_text().rstrip()}\n\n{part.begin}{part.end}")
    part.check(document)


def write_table(settings: ThoughtBenchSettings, document: Path, command: str) -> None:
    """Write the table of this model, and the plot. Raises RunError if the plot cannot be written."""
    figures = read_figures(settings)
    plot = f"thoughts_{settings.folder.name}.png"
    draw_curves(figures, read_convergence(settings), settings.label, str(document.parent / plot))
    _part(settings).write(document, _lines(settings, figures, plot, command))


def _part(settings: ThoughtBenchSettings) -> GeneratedPart:
    return GeneratedPart(
        begin=f"<!-- thoughts of {settings.label}: `python -m benchmarks thoughts` writes this part -->\n",
        end=f"<!-- end of the thoughts of {settings.label} -->\n",
        what=f"the thoughts of {settings.label}",
    )


def _lines(settings: ThoughtBenchSettings, figures: Sequence[CellFigures], plot: str, command: str) -> list[str]:
    controls = [memory for memory in settings.controls if memory != "matched"]
    names = [_NAMES.get(memory, f"over {memory}") for memory in controls]
    has_alone = any(one.thoughts_alone is not None for one in figures)
    has_numbers = any(one.num_own is not None for one in figures)
    more = ["latent-only − none"] * has_alone + ["own numbers"] * has_numbers
    columns = ["rule", "steps", "matched", *controls, *names, "over no thoughts", *more]
    rows = [columns, ["---", *("---:" for _ in columns[1:])]]
    rows += [_row(one, controls, has_alone=has_alone) for one in figures]
    shown = num_converging(settings)
    numbers = " Own numbers: matched answers with a number of their own question's notes." if has_numbers else ""
    return [
        f"### {settings.label}",
        "",
        f"`{command}`",
        "",
        f"{figures[0].num_questions} questions a cell, greedy, {settings.dtype}. Accuracy in % with its 95 % interval; "
        "P = matched − deranged, G = matched − none and the gain over no thoughts in points, with paired bootstrap "
        f"intervals.{numbers}",
        "",
        *table_lines(rows),
        "",
        f"![Accuracy over latent steps, and cosine to the thought before ({shown} questions)]({plot})",
        "",
        "Grey lines are means of a control over all rules and steps.",
    ]


def _row(one: CellFigures, controls: Sequence[str], *, has_alone: bool) -> list[str]:
    accuracies = [_accuracy(one, memory) for memory in ("matched", *controls)]
    gains = [_gain(one.gains.get(memory)) for memory in controls]
    rule = one.rule if one.steps else "no thoughts"
    alone = [_gain(one.thoughts_alone)] if has_alone else []
    own = [] if one.num_own is None else [f"{one.num_own} of {one.num_questions}"]
    return [rule, str(one.steps), *accuracies, *gains, _gain(one.over_no_thoughts), *alone, *own]


def _accuracy(one: CellFigures, memory: str) -> str:
    if memory not in one.accuracy:
        return ""
    mean, (low, high) = one.accuracy[memory]
    return f"{100 * mean:.1f} ({100 * low:.1f}–{100 * high:.1f})"


def _gain(found: PairedDifference | None) -> str:
    if found is None:
        return ""
    low, high = found.interval
    return f"{100 * found.difference:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
