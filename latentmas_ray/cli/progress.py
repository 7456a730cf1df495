"""Progress of a run on stderr: a bar where a terminal is there, plain lines now and then where not."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from latentmas_ray.cli.text import format_number, shorten
from latentmas_ray.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from latentmas_ray.runs.results import Answer, Failure, Progress

MAX_FAILURES_KEPT = 10
MIN_LINE_SECONDS = 3.0  # plain lines never come faster
MAX_LINE_SECONDS = 30.0  # … and, while anything moves, not slower
_LINE_STEP = 0.1  # a plain line for every tenth of the questions


class RunWatcher:
    """An observer that shows nothing and remembers the first failures. The kinds that show something build on it."""

    def __init__(self) -> None:
        self.failures: list[Failure] = []
        self._last_fault = ""

    def on_started(self, description: str, num_questions: int, num_done: int) -> None:
        """The runtime is up; `num_done` questions were already finished by an earlier run."""

    def on_progress(self, progress: "Progress") -> None:
        """The newest snapshot."""

    def on_answer(self, answer: "Answer") -> None:
        """One question is finished; the snapshot that follows counts it."""

    def on_failure(self, failure: "Failure") -> None:
        """One question could not be answered."""
        if len(self.failures) < MAX_FAILURES_KEPT:
            self.failures.append(failure)

    def on_fault(self, reason: str) -> None:
        """Something was lost, and a batch goes on without it. Told once where many batches lose the same."""
        if reason != self._last_fault:
            self._last_fault = reason
            self._tell_fault(f"{reason}; going on")

    def _tell_fault(self, line: str) -> None:
        """A line for the user."""

    def on_finished(self) -> None:
        """No question is left."""


class BarWatcher(RunWatcher):
    """Moves a rich progress bar; whoever made the bar starts and stops it."""

    def __init__(self, bar: Bar, label: str) -> None:
        super().__init__()
        self._bar = bar
        self._label = label
        self._task = bar.add_task(f"{label}: starting", total=None, figures="")

    def on_started(self, description: str, num_questions: int, num_done: int) -> None:
        self._bar.console.print(description, style="dim", markup=False, highlight=False)
        # A task without a total runs its clock from here on: bringing up the actors is not part of the run.
        self._bar.reset(
            self._task, total=num_questions, completed=num_done, description=self._label, figures="", visible=True
        )

    def on_progress(self, progress: "Progress") -> None:
        self._bar.update(
            self._task, completed=progress.num_done, total=progress.num_questions, figures=_figures(progress)
        )

    def _tell_fault(self, line: str) -> None:
        self._bar.console.print(line, style="yellow", markup=False, highlight=False)


class LineWatcher(RunWatcher):
    """Writes a line at the start, about every tenth of the questions, and at the end."""

    def __init__(self, console: Console, label: str, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._console = console
        self._label = label
        self._clock = clock
        self._latest: Progress | None = None
        self._written: Progress | None = None
        self._last_seconds = clock()
        self._last_settled = 0

    def on_started(self, description: str, num_questions: int, num_done: int) -> None:
        already = f", {num_done} already done" if num_done else ""
        self._say(f"{num_questions} questions{already}; {description}")
        self._last_seconds, self._last_settled = self._clock(), num_done

    def on_progress(self, progress: "Progress") -> None:
        self._latest = progress
        waited = self._clock() - self._last_seconds
        step_done = _num_settled(progress) - self._last_settled >= _LINE_STEP * progress.num_questions
        if waited >= MAX_LINE_SECONDS or (step_done and waited >= MIN_LINE_SECONDS):
            self._write(progress)

    def _tell_fault(self, line: str) -> None:
        self._say(line)

    def on_finished(self) -> None:
        if self._latest is not None and self._latest != self._written:
            self._write(self._latest)

    def _write(self, progress: "Progress") -> None:
        self._written = progress
        self._last_seconds, self._last_settled = self._clock(), _num_settled(progress)
        self._say(
            f"{progress.num_done}/{progress.num_questions} questions, {_figures(progress)}, "
            f"{format_seconds(progress.seconds)}"
        )

    def _say(self, text: str) -> None:
        self._console.print(f"{self._label}: {text}", markup=False, highlight=False, soft_wrap=True)


@contextmanager
def watch(label: str, *, brief: bool = False, console: Console | None = None) -> Iterator[RunWatcher]:
    """The watcher that fits stderr. `brief`: the bar vanishes at the end, and without a terminal nothing is shown."""
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield RunWatcher() if brief else LineWatcher(console, label)
        return
    columns = (
        SpinnerColumn(finished_text=" "),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}", markup=False),
        TimeElapsedColumn(),
    )
    with Bar(*columns, console=console, transient=brief, refresh_per_second=5) as bar:
        yield BarWatcher(bar, shorten(label, 24))


def _num_settled(progress: "Progress") -> int:
    return progress.num_done + progress.num_failed


def _figures(progress: "Progress") -> str:
    figures = []
    if progress.seconds > 0:
        figures.append(f"{format_number(round(progress.tokens / progress.seconds))} tokens/s")
    figures.append(f"{format_bytes(progress.memory_in_flight_bytes)} in flight")
    if progress.num_failed:
        figures.append(f"{progress.num_failed} failed")
    return ", ".join(figures)
