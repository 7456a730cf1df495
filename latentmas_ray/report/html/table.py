"""The main table: the accuracy and the costs of every run."""

from dataclasses import dataclass

from latentmas_ray.report.compared_run import RunFigures
from latentmas_ray.report.html.comparison import Compared
from latentmas_ray.report.html.entries import Entry, Group, Interval
from latentmas_ray.report.html.figures import NOT_KNOWN, Figure, number, percent, rate, seconds, times
from latentmas_ray.report.published import PublishedCell, find_cell
from latentmas_ray.units import format_speed_ratio

_OUTPUT = "output_tokens"


@dataclass(frozen=True, kw_only=True)
class Row:
    """The row of one run. Failures, alarms and texts that were cut off are counted over all seeds."""

    entry: Entry
    num_questions: Figure
    num_failed: Figure
    num_alarmed: Figure | None  # questions with an alarm; None if none
    num_cut_off: Figure | None  # questions with a text that ended early; None if none
    accuracy: Figure
    interval: Interval | None
    output_tokens: Figure
    output_tokens_ratio: Figure  # relative to one agent alone
    total_tokens: Figure
    total_tokens_ratio: Figure
    seconds: Figure
    num_resumed: Figure | None  # questions that the times do not include
    speed: Figure
    speed_after_warm_up: Figure
    speed_ratio: Figure
    published: tuple[Figure, Figure, Figure] | None  # accuracy, output tokens, seconds


@dataclass(frozen=True, kw_only=True)
class Table:
    """The rows of one group."""

    group: Group
    rows: tuple[Row, ...]

    @property
    def has_ratios(self) -> bool:
        """Whether any run besides that of one agent alone has costs relative to it."""
        return sum(row.total_tokens_ratio.value is not None for row in self.rows) > 1


def make_table(compared: Compared, *, with_published: bool) -> Table:
    """Return the table of a group; `with_published` adds published results where there are any."""
    group = compared.group
    return Table(group=group, rows=tuple(_row(entry, compared.costs(entry), with_published) for entry in group.entries))


def total_tokens(entry: Entry) -> float:
    """Return prompt tokens + latent steps + output tokens of all agents, per question."""
    kinds = ("prompt_tokens", "latent_steps", _OUTPUT)
    return entry.rows_per_question * sum(float(entry.figures[f"{kind}_per_question"]) for kind in kinds)


def _row(entry: Entry, costs: RunFigures | None, with_published: bool) -> Row:
    cell = find_cell(entry.config) if with_published else None
    speed = None if costs is None else costs.speed_to_single
    return Row(
        entry=entry,
        num_questions=entry.of_question("num_questions", number, is_divided=True),
        num_failed=entry.figure("num_failed", number),
        num_alarmed=entry.num_alarmed,
        num_cut_off=entry.num_cut_off,
        accuracy=entry.accuracy,
        interval=entry.interval,
        output_tokens=entry.of_question(f"{_OUTPUT}_per_question", number),
        output_tokens_ratio=_ratio(None if costs is None else costs.output_tokens_to_single),
        total_tokens=_computed(total_tokens(entry), number(total_tokens(entry))),
        total_tokens_ratio=_ratio(None if costs is None else costs.total_tokens_to_single),
        seconds=entry.figure("seconds", seconds),
        num_resumed=entry.num_resumed,
        speed=entry.of_question("questions_per_second", rate, is_divided=True),
        speed_after_warm_up=entry.of_question("questions_per_second_after_warm_up", rate, is_divided=True),
        speed_ratio=_computed(speed, NOT_KNOWN if speed is None else format_speed_ratio(speed)),
        published=None if cell is None else _published(cell),
    )


def _ratio(value: float | None) -> Figure:
    return _computed(value, times(value))


def _computed(value: float | None, text: str) -> Figure:
    return Figure(value=value, text=text)


def _published(cell: PublishedCell) -> tuple[Figure, Figure, Figure]:
    return (
        _computed(cell.accuracy, percent(cell.accuracy)),
        _computed(cell.output_tokens, number(cell.output_tokens)),
        _computed(cell.seconds, f"{cell.seconds:,.0f} s"),
    )
