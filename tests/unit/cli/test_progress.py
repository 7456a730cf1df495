"""Progress on stderr: plain lines when nobody watches live, a bar on a terminal."""

import io
import threading
from dataclasses import replace

import pytest
from rich.console import Console

from latentmas_ray.cli.render.progress import MAX_LINE_SECONDS, ConsoleListener, LineListener, heartbeat, listen
from latentmas_ray.cli.render.text import printable, shorten
from latentmas_ray.engine.timing.progress import Step, TurnProgress
from latentmas_ray.runs.results import Failure
from latentmas_ray.runs.run_events import QuestionFailed, RunEnded, RunProgress, RunStarted, TurnRepeated


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def snapshot(num_done: int, *, num_questions: int = 100, num_failed: int = 0, seconds: float = 1.0) -> RunProgress:
    return RunProgress(
        num_questions=num_questions,
        num_done=num_done,
        num_failed=num_failed,
        batches_in_flight=2,
        memory_in_flight_bytes=34_000_000,
        tokens=1000 * num_done,
        seconds=seconds,
    )


@pytest.fixture
def lines() -> tuple[LineListener, Clock, io.StringIO]:
    file, clock = io.StringIO(), Clock()
    return LineListener(Console(file=file, width=80), "latent", clock), clock, file


def run_steady(lines: tuple[LineListener, Clock, io.StringIO], seconds_per_question: float) -> list[str]:
    listener, clock, file = lines
    listener.on_event(RunStarted(description="4 actors", num_questions=100, num_done=0))
    for num_done in range(1, 101):
        clock.now += seconds_per_question
        listener.on_event(snapshot(num_done, seconds=num_done * seconds_per_question))
    listener.on_event(RunEnded())
    return file.getvalue().splitlines()


def test_a_line_for_each_tenth(lines: tuple[LineListener, Clock, io.StringIO]) -> None:
    written = run_steady(lines, seconds_per_question=1.0)
    assert written[0] == "latent: 100 questions; 4 actors"
    assert [line.split("/")[0] for line in written[1:]] == [f"latent: {count}" for count in range(10, 101, 10)]
    assert written[1] == "latent: 10/100 questions, 1,000 tokens/s, 34 MB in flight, 10.0 s"


def test_a_line_says_how_many_texts_are_being_written(lines: tuple[LineListener, Clock, io.StringIO]) -> None:
    listener, clock, file = lines
    listener.on_event(RunStarted(description="4 actors", num_questions=100, num_done=0))
    clock.now += MAX_LINE_SECONDS
    listener.on_event(replace(snapshot(0, seconds=30.0), tokens=3000, num_writing=64))
    assert file.getvalue().splitlines()[1] == (
        "latent: 0/100 questions, 100 tokens/s, 64 being written, 34 MB in flight, 30.0 s"
    )


def test_lines_never_come_faster_than_one_can_read(lines: tuple[LineListener, Clock, io.StringIO]) -> None:
    assert len(run_steady(lines, seconds_per_question=0.01)) == 2  # the first and the last


def test_a_slow_run_still_shows_signs_of_life(lines: tuple[LineListener, Clock, io.StringIO]) -> None:
    assert len(run_steady(lines, seconds_per_question=31.0)) == 101


def test_a_resumed_run_says_what_was_done_and_failures_are_counted(
    lines: tuple[LineListener, Clock, io.StringIO],
) -> None:
    listener, clock, file = lines
    listener.on_event(RunStarted(description="4 actors", num_questions=100, num_done=60))
    clock.now += 5
    listener.on_event(snapshot(61, num_failed=9))
    assert "60 already done" in file.getvalue()
    assert "61/100" in file.getvalue()
    assert "9 failed" in file.getvalue()


def test_no_rate_before_time_has_passed(lines: tuple[LineListener, Clock, io.StringIO]) -> None:
    listener, _, file = lines
    listener.on_event(RunStarted(description="4 actors", num_questions=1, num_done=0))
    listener.on_event(snapshot(1, num_questions=1, seconds=0.0))
    listener.on_event(RunEnded())
    assert file.getvalue().splitlines()[-1] == "latent: 1/1 questions, 34 MB in flight, 0 ms"


def test_only_the_first_failures_are_kept() -> None:
    listener = ConsoleListener(Console(file=io.StringIO()), "latent")
    for index in range(1000):
        listener.on_event(QuestionFailed(failure=Failure(id=str(index), agent="judger", error="no")))
    assert [failure.id for failure in listener.failures] == [str(index) for index in range(10)]


def test_what_many_batches_lose_is_told_once(lines: tuple[LineListener, Clock, io.StringIO]) -> None:
    listener, _, file = lines
    for reason in ("its actor died", "its actor died", "its memory is gone"):
        listener.on_event(TurnRepeated(agent="critic", reason=reason))
    assert file.getvalue().splitlines() == [
        "latent: its actor died; continuing",
        "latent: its memory is gone; continuing",
    ]


@pytest.mark.parametrize("width", [40, 80, 120])
def test_the_bar_shows_what_runs_and_stays_in_its_line(width: int) -> None:
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=True, color_system=None)
    with listen("latent", console=console) as listener:
        listener.on_event(RunStarted(description="4 actors [cpu]", num_questions=1319, num_done=4))
        listener.on_event(snapshot(700, num_questions=1319, num_failed=3))
        listener.on_event(RunEnded())
    shown = file.getvalue()
    assert "4 actors [cpu]" in shown
    if width >= 80:
        assert "700/1319" in shown
        assert "700,000 tokens/s, 34 MB in flight, 3 failed" in shown


def test_brief_is_silent_without_a_terminal() -> None:
    file = io.StringIO()
    with listen("latent", brief=True, console=Console(file=file)) as listener:
        listener.on_event(RunStarted(description="4 actors", num_questions=1, num_done=0))
        listener.on_event(snapshot(1))
        listener.on_event(RunEnded())
    assert file.getvalue() == ""


def test_model_output_cannot_drive_the_terminal() -> None:
    assert printable("a\x1b[2Jb\x07\x9b\n\tc") == "a\ufffd[2Jb\ufffd\ufffd\n\tc"
    assert shorten("one\ntwo   three", 9) == "one two …"


def turn(agent: str, step: Step, num_done: int, num_total: int, seconds: float, num_questions: int = 1) -> TurnProgress:
    return TurnProgress(
        agent=agent,
        question_ids=tuple(f"q{index}" for index in range(num_questions)),
        step=step,
        num_done=num_done,
        num_total=num_total,
        seconds=seconds,
    )


@pytest.mark.parametrize(
    ("turns", "line"),
    [
        ([turn("judger", "token", 120, 256, 16.0)], "latent: judger: token 120 of 256, 16.0 s\n"),
        (
            [turn("critic", "latent step", 3, 40, 75.0, 8)],
            "latent: critic: latent step 3 of 40 of 8 questions, 1 min 15 s\n",
        ),
        (
            [turn("expert1", "prompt", 1024, 30000, 16.0), turn("expert2", "token", 5, 9, 20.0)],
            "latent: expert2: token 5 of 9, 20.0 s, and 1 more\n",
        ),
        ([turn("judger", "token", 1, 256, 2.0)], ""),  # it has just begun: turns finish
        ([], ""),
    ],
)
@pytest.mark.parametrize("brief", [False, True])
def test_a_long_turn_gets_a_line_also_without_a_terminal(turns: list[TurnProgress], line: str, brief: bool) -> None:
    file, clock = io.StringIO(), Clock()
    listener = (ConsoleListener if brief else LineListener)(Console(file=file, width=40), "latent", clock)
    for _ in range(14):
        clock.now += 1
        listener.show_running(lambda: turns)
    assert file.getvalue() == ""
    clock.now += 1
    listener.show_running(lambda: turns)
    assert file.getvalue() == line
    listener.show_running(lambda: turns)
    assert file.getvalue() == line


def test_no_heartbeat_while_lines_come(lines: tuple[LineListener, Clock, io.StringIO]) -> None:
    listener, clock, file = lines
    listener.on_event(RunStarted(description="4 actors", num_questions=100, num_done=0))
    clock.now += 14
    listener.on_event(snapshot(20))
    clock.now += 14
    listener.show_running(lambda: [turn("judger", "token", 1, 2, 20.0)])
    assert "judger" not in file.getvalue()


def test_the_heartbeat_ends_with_its_body(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentmas_ray.cli.render.progress._LOOK_SECONDS", 0.01)
    monkeypatch.setattr("latentmas_ray.cli.render.progress.HEARTBEAT_SECONDS", 0.0)
    asked = threading.Event()

    def running() -> list[TurnProgress]:
        asked.set()
        return []

    with heartbeat(ConsoleListener(Console(file=io.StringIO()), "latent"), running):
        assert asked.wait(60)
    assert not any(thread.name == "heartbeat" for thread in threading.enumerate())
