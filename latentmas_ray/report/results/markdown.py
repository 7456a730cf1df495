"""The table of results as a Markdown page: figures, then for each run its command, versions and hardware."""

from collections.abc import Sequence

from latentmas_ray.report.results.find import FoundRuns
from latentmas_ray.report.results.rows import ResultGain, ResultRow
from latentmas_ray.units import format_accuracy, format_number, format_rate, format_seconds

_COLUMNS = (
    *("run", "task", "model", "method", "topology", "questions", "accuracy (95 %)", "gains, points (95 %)"),
    *("output tokens", "all tokens", "time", "questions/s"),
)
_RIGHT = {"questions", "accuracy (95 %)", "output tokens", "all tokens", "time", "questions/s"}
_ABOUT = """\
Tokens are per question: of the texts, and with the prompts and latent steps of all agents. Times are without loading
the models. A gain is the difference in accuracy to a run with other memory, or to one agent alone, on the same
questions.
"""


def to_markdown(rows: Sequence[ResultRow], found: FoundRuns, made_by: str) -> str:
    """Return the page; `made_by` is the command that makes it."""
    lines = ["# Results", "", f"Made by `{made_by}` from the output folders of runs.", _ABOUT]
    lines += [_line(_COLUMNS), _line(["---:" if name in _RIGHT else "---" for name in _COLUMNS])]
    lines += [_line(cells_of(number, row)) for number, row in enumerate(rows, start=1)]
    lines += ["", "## Commands", ""]
    lines += [_about(number, row) for number, row in enumerate(rows, start=1)]
    lines += ["", "## Machines and versions", ""]
    for text, numbers in _grouped([(f"{row.hardware or 'unknown'}; {row.versions or 'unknown'}") for row in rows]):
        lines.append(f"- {numbers}: {text}")
    if found.left_out:
        lines += ["", "## Left out", "", *(f"- {_escaped(one.folder)}: {_escaped(one.why)}" for one in found.left_out)]
    return "\n".join(lines) + "\n"


def format_gain(gain: ResultGain) -> str:
    """Return a gain in percentage points, with its interval and what it is over."""
    low, high = gain.interval
    return f"{gain.kind} {100 * gain.difference:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def format_questions(row: ResultRow) -> str:
    """Return the number of questions, of seeds, and of questions that failed."""
    seeds = f" × {row.num_seeds} seeds" if row.num_seeds > 1 else ""
    return f"{row.num_questions}{seeds}" + (f", {row.num_failed} failed" if row.num_failed else "")


def format_method(row: ResultRow) -> str:
    """Return the method, or the control that was run."""
    return row.method if row.memory == "matched" else f"{row.method}, memory {row.memory}"


def cells_of(number: int, row: ResultRow, *, between_gains: str = "; ") -> list[str]:
    """Return the cells of a run's line, as they stand in every table of results."""
    return [
        str(number),
        row.task,
        row.model,
        format_method(row),
        row.topology,
        format_questions(row),
        format_accuracy(row.accuracy, row.accuracy_interval),
        between_gains.join(map(format_gain, row.gains)) or "-",
        format_number(row.output_tokens),
        format_number(row.total_tokens),
        format_seconds(row.seconds),
        "-" if row.questions_per_second is None else format_rate(row.questions_per_second),
    ]


def _about(number: int, row: ResultRow) -> str:
    remark = f" ({row.remark})" if row.remark else ""
    return f"{number}. `{row.command}`{remark}"


def _grouped(texts: Sequence[str]) -> list[tuple[str, str]]:
    """Return each text once, with the numbers of its runs: `1 to 4, 7`."""
    numbers: dict[str, list[int]] = {}
    for number, text in enumerate(texts, start=1):
        numbers.setdefault(text, []).append(number)
    return [(_escaped(text), _ranges(own)) for text, own in numbers.items()]


def _ranges(numbers: Sequence[int]) -> str:
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(f"{part[0]} to {part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_escaped, cells))} |"


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
