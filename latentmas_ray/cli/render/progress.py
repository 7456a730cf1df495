"""The progress of a run on stderr: a bar on a terminal, otherwise plain lines now and then, also while one long turn
runs."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Column

from latentmas_ray.cli.render.text import shorten
from latentmas_ray.cli.unused_flags import NOTES
from latentmas_ray.units import format_bytes, format_number, format_seconds

if TYPE_CHECKING:
    from latentmas_ray.engine.timing.progress import TurnProgress
    from latentmas_ray.runs.results import Failure
    from latentmas_ray.runs.run_events import RunEvent, RunProgress, RunStarted

MAX_FAILURES_KEPT = 10
_log = logging.getLogger(__name__)
MIN_LINE_SECONDS = 3.0  # plain lines never come faster
MAX_LINE_SECONDS = 30.0  # … and, while anything moves, not slower
HEARTBEAT_SECONDS = 15.0  # a turn that runs longer without any other line gets one
_LOOK_SECONDS = 1.0  # how often the heartbeat looks
_MIN_BAR_WIDTH, _MIN_TIME_WIDTH = 112, 60  # columns of a terminal
_LINE_STEP = 0.1  # a plain line for every tenth of the questions


class ConsoleListener:
    """An observer that shows nothing but heartbeats and stores the first failures; the base of those that show
    progress."""

    def __init__(self, console: Console, label: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.failures: list[Failure] = []
        self._console, self._label, self._clock = console, label, clock
        self._last_seconds = clock()  # of the last line
        self._last_lost = ""

    def on_event(self, event: "RunEvent") -> None:
        from latentmas_ray.runs import run_events

        match event:
            case run_events.RunStarted():
                NOTES.release()
                self._show_start(event)
            case run_events.RunProgress():
                self._show_progress(event)
            case run_events.QuestionFailed(failure=failure):
                if len(self.failures) < MAX_FAILURES_KEPT:
                    self.failures.append(failure)
            case run_events.TurnRepeated(reason=reason):
                if reason != self._last_lost:  # once where many batches lose the same
                    self._last_lost = reason
                    self._show_warning(f"{reason}; continuing")
            case run_events.LayoutMeasured(speed=speed):
                self._show_heartbeat(speed.describe())
            case run_events.RunEnded():
                self._show_end()

    def show_running(self, running_turns: "Callable[[], Sequence[TurnProgress]]") -> None:
        """Show the turn that has run for longest, if no line was written for `HEARTBEAT_SECONDS`. Called every second,
        in a thread of its own."""
        if self._clock() - self._last_seconds < HEARTBEAT_SECONDS:
            return
        self._last_seconds = self._clock()
        turns = [turn for turn in running_turns() if turn.seconds >= HEARTBEAT_SECONDS]
        if turns:
            longest = max(turns, key=lambda turn: turn.seconds)
            more = f", and {len(turns) - 1} more" if len(turns) > 1 else ""
            self._show_heartbeat(f"{longest}, {format_seconds(longest.seconds)}{more}")

    def _show_heartbeat(self, line: str) -> None:
        self._say(line)

    def _say(self, text: str) -> None:
        self._console.print(f"{self._label}: {text}", markup=False, highlight=False, soft_wrap=True)

    def _show_start(self, event: "RunStarted") -> None:
        """The runtime is up."""

    def _show_progress(self, progress: "RunProgress") -> None:
        """Show the newest snapshot."""

    def _show_warning(self, line: str) -> None:
        """Show a line to the user."""

    def _show_end(self) -> None:
        """Show that all questions are done."""


class BarListener(ConsoleListener):
    """Updates a rich progress bar, which the caller starts and stops."""

    def __init__(self, bar: Progress, label: str) -> None:
        super().__init__(bar.console, label)
        self._bar = bar
        self._task = bar.add_task(f"{label}: starting", total=None, figures="")

    def _show_start(self, event: "RunStarted") -> None:
        self._bar.console.print(event.description, style="dim", markup=False, highlight=False)
        # The clock starts here: starting the actors is not part of the run.
        self._bar.reset(
            self._task,
            total=event.num_questions,
            completed=event.num_done,
            description=self._label,
            figures="",
            visible=True,
        )

    def _show_progress(self, progress: "RunProgress") -> None:
        self._bar.update(
            self._task, completed=progress.num_done, total=progress.num_questions, figures=_figures(progress)
        )

    def _show_heartbeat(self, line: str) -> None:
        self._bar.console.print(line, style="dim", markup=False, highlight=False)

    def _show_warning(self, line: str) -> None:
        self._bar.console.print(line, style="yellow", markup=False, highlight=False)


class LineListener(ConsoleListener):
    """Writes a line at the start, about every tenth of the questions, and at the end."""

    def __init__(self, console: Console, label: str, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(console, label, clock)
        self._latest: RunProgress | None = None
        self._written: RunProgress | None = None
        self._last_settled = 0

    def _show_start(self, event: "RunStarted") -> None:
        already = f", {event.num_done} already done" if event.num_done else ""
        self._say(f"{event.num_questions} questions{already}; {event.description}")
        self._last_seconds, self._last_settled = self._clock(), event.num_done

    def _show_progress(self, progress: "RunProgress") -> None:
        self._latest = progress
        waited = self._clock() - self._last_seconds
        step_done = _num_settled(progress) - self._last_settled >= _LINE_STEP * progress.num_questions
        if waited >= MAX_LINE_SECONDS or (step_done and waited >= MIN_LINE_SECONDS):
            self._write(progress)

    def _show_warning(self, line: str) -> None:
        self._say(line)

    def _show_end(self) -> None:
        if self._latest is not None and self._latest != self._written:
            self._write(self._latest)

    def _write(self, progress: "RunProgress") -> None:
        self._written = progress
        self._last_seconds, self._last_settled = self._clock(), _num_settled(progress)
        self._say(
            f"{progress.num_done}/{progress.num_questions} questions, {_figures(progress)}, "
            f"{format_seconds(progress.seconds)}"
        )


@contextmanager
def heartbeat(listener: ConsoleListener, running_turns: "Callable[[], Sequence[TurnProgress]]") -> Iterator[None]:
    """Call `listener.show_running` every second during the body."""
    is_over = threading.Event()

    def beat() -> None:
        while not is_over.wait(_LOOK_SECONDS):
            try:
                listener.show_running(running_turns)
            except Exception as error:  # noqa: BLE001  the run itself reports what is wrong
                _log.debug("no heartbeat: %s", error)

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


@contextmanager
def listen(label: str, *, brief: bool = False, console: Console | None = None) -> Iterator[ConsoleListener]:
    """Yield the listener that suits stderr. `brief`: remove the bar at the end, and show nothing without a terminal."""
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield (ConsoleListener if brief else LineListener)(console, label)
        return
    with Progress(*_columns(console.width), console=console, transient=brief, refresh_per_second=5) as bar:
        yield BarListener(bar, shorten(label, 24))


def _columns(width: int) -> tuple[ProgressColumn, ...]:
    """Return the columns of the bar for a terminal of this width: a narrow one loses the bar and has the figures in
    several lines, and nothing is cut."""
    label, figures = "{task.description}", "{task.fields[figures]}"
    if width >= _MIN_BAR_WIDTH:
        texts = TextColumn(label, markup=False), BarColumn(bar_width=20), MofNCompleteColumn()
        return SpinnerColumn(finished_text=" "), *texts, TextColumn(figures, markup=False), TimeElapsedColumn()
    folded = [TextColumn(text, markup=False, table_column=Column(overflow="fold")) for text in (label, figures)]
    if width >= _MIN_TIME_WIDTH:
        return SpinnerColumn(finished_text=" "), folded[0], MofNCompleteColumn(), folded[1], TimeElapsedColumn()
    return folded[0], MofNCompleteColumn(), folded[1]


def _num_settled(progress: "RunProgress") -> int:
    return progress.num_done + progress.num_failed


def _figures(progress: "RunProgress") -> str:
    figures = []
    if progress.seconds > 0:
        figures.append(f"{format_number(round(progress.tokens / progress.seconds))} tokens/s")
    if progress.num_writing:
        figures.append(f"{progress.num_writing} being written")
    figures.append(f"{format_bytes(progress.memory_in_flight_bytes)} in flight")
    if progress.num_failed:
        figures.append(f"{progress.num_failed} failed")
    return ", ".join(figures)
