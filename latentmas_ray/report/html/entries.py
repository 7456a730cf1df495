"""The runs of a report with their labels and figures, in groups of one task and model."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from latentmas_ray.config import RunConfig
from latentmas_ray.report.html.figures import Figure, Write, look_up, number, percent, points
from latentmas_ray.report.runs import FinishedRun
from latentmas_ray.runs.hints.rows import rows_per_question
from latentmas_ray.runs.multi_seed import SeedRun, mean_correct, summarise_seeds
from latentmas_ray.runs.results import Summary
from latentmas_ray.runs.summary import summarise

_TIMES = frozenset({"seconds", "questions_per_second", "questions_per_second_after_warm_up"})


@dataclass(frozen=True)
class Member:
    """One run with one seed."""

    key: str  # its id on the page
    label: str
    accent: str
    run: FinishedRun


@dataclass(frozen=True)
class Interval:
    """The 95 % interval of an accuracy."""

    low: float
    high: float
    figures: tuple[Figure, ...]  # the two bounds, or half the width


@dataclass(frozen=True)
class Entry:
    """One output folder in the report: a run, or one run per seed."""

    key: str  # its id on the page: r0, r1, …
    label: str
    given: tuple[FinishedRun, ...]  # all runs in the folder, one per seed

    @cached_property
    def runs(self) -> tuple[FinishedRun, ...]:
        """The runs that are shown. While it is not finished: only those with answers, if there are any."""
        answered = tuple(run for run in self.given if run.answers)
        return self.given if self.is_finished or not answered else answered

    @property
    def config(self) -> RunConfig:
        return self.runs[0].config

    @property
    def accent(self) -> str:
        """The name of its colour: its method, or `control`."""
        return accent_of(self.config)

    @property
    def members(self) -> tuple[Member, ...]:
        """Its runs, one per seed."""
        if len(self.runs) == 1:
            return (Member(self.key, self.label, self.accent, self.runs[0]),)
        return tuple(
            Member(f"{self.key}s{run.config.seed}", f"{self.label} · seed {run.config.seed}", self.accent, run)
            for run in self.runs
        )

    @property
    def is_finished(self) -> bool:
        return all(run.summary is not None for run in self.given)

    @cached_property
    def summary(self) -> Summary:
        """The summary of the run, or of the run with the first seed."""
        return _summary(self.runs[0])

    @cached_property
    def figures(self) -> dict[str, Any]:
        """The object of summary.json, of the run or over its seeds. For an unfinished run, computed from the answers so
        far; its times are None."""
        if len(self.runs) == 1:
            found = self.summary.to_json()
        else:
            by_seed = {run.config.seed: SeedRun(_summary(run), run.answers) for run in self.runs}
            found = summarise_seeds(self.config, by_seed).to_json()
        return found if self.is_finished else found | dict.fromkeys(_TIMES)

    @cached_property
    def rows_per_question(self) -> float:
        """As many as a question has hints, else 1. Its figures are those of a row."""
        return rows_per_question(self.runs[0].answers)

    @property
    def interval(self) -> Interval | None:
        """The interval of the accuracy: over questions, or over seeds."""
        accuracy, half = self.figures["accuracy"], self.figures.get("accuracy_half_width")
        if half is not None:
            return Interval(
                max(0.0, accuracy - half), min(1.0, accuracy + half), (self.figure("accuracy_half_width", points),)
            )
        field = "accuracy_interval" if "accuracy_interval" in self.figures else "question_interval"
        if self.figures[field] is None:
            return None
        low, high = self.figures[field]
        return Interval(low, high, (self.figure(f"{field}.0", points), self.figure(f"{field}.1", points)))

    @property
    def num_resumed(self) -> Figure | None:
        """The questions that its times do not include, over all seeds; None if none, or without times."""
        count = sum(_summary(run).num_resumed or 0 for run in self.runs)
        if not count or not self.is_finished:
            return None
        return self.figure("num_resumed", number) if len(self.runs) == 1 else Figure(value=count, text=number(count))

    @property
    def num_alarmed(self) -> Figure | None:
        """The questions with an alarm, over all seeds; None if none."""
        if len(self.runs) == 1:
            return self.figure("num_alarmed", number) if self.figures["num_alarmed"] else None
        count = sum(_summary(run).num_alarmed for run in self.runs)
        return Figure(value=count, text=number(count)) if count else None

    @property
    def num_cut_off(self) -> Figure | None:
        """The questions with a text that was cut off, over all seeds; None if none."""
        return self.figure("num_cut_off", number) if self.figures.get("num_cut_off") else None

    @property
    def accuracy(self) -> Figure:
        return self.figure("accuracy", percent)

    def figure(self, field: str, write: Write) -> Figure:
        """Return the number at `field` of its summary.json, formatted with `write`."""
        value = look_up(self.figures, field.split("."))
        return Figure(value=value, text=write(value), run=self.key, field=field if self.is_finished else None)

    def of_question(self, field: str, write: Write, *, is_divided: bool = False) -> Figure:
        """Return the number at `field`, which is that of a row, for a whole question: all of its rows together, or with
        `is_divided` a part of it, as of a speed."""
        figure, factor = self.figure(field, write), self.rows_per_question
        if factor == 1.0 or figure.value is None:
            return figure
        value = figure.value / factor if is_divided else figure.value * factor
        return Figure(value=value, text=write(value))

    def detail(self, field: str, write: Write) -> Figure:
        """Return the number at `field` of the run's figures, or of those of the first seed."""
        return self.figure(field if len(self.runs) == 1 else f"runs.{self.config.seed}.{field}", write)

    def correct(self) -> dict[str, float]:
        """Return each question's score: 0 or 1, or the mean over seeds. Only questions that are graded in all seeds."""
        return mean_correct([run.answers for run in self.runs])


@dataclass(frozen=True)
class Group:
    """The runs of one task with one model."""

    task: str
    model: str
    entries: tuple[Entry, ...]

    @property
    def members(self) -> tuple[Member, ...]:
        return tuple(member for entry in self.entries for member in entry.members)

    @property
    def seeded(self) -> bool:
        """Whether any entry has several seeds."""
        return any(len(entry.runs) > 1 for entry in self.entries)

    @property
    def title(self) -> str:
        return f"{self.task}, {self.model}"


def accent_of(config: RunConfig) -> str:
    return config.method if config.memory == "matched" else "control"


def _summary(run: FinishedRun) -> Summary:
    return run.summary or summarise(run.answers, run.failures, config=run.config, seconds=0.0)
