"""The Ray actor of a replica whose agents all write text: it writes the questions of several turns at the same time."""

import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch

from latentmas_ray.actors.agent_actor import GROUPS, AgentActor
from latentmas_ray.actors.detached.lease import Rejoined
from latentmas_ray.actors.given_memory import fetch_given_memory
from latentmas_ray.actors.receiver import SentChunk
from latentmas_ray.actors.text.event_queue import EventQueue, TextReport
from latentmas_ray.actors.text.write_turn import write_turn
from latentmas_ray.authentication import RunKey
from latentmas_ray.engine.timing.progress import TurnProgress
from latentmas_ray.engine.turn import TurnRequest, TurnResult
from latentmas_ray.writing.text_runner import TextRunner
from latentmas_ray.writing.writer import Writer

_MIN_TURNS, _MAX_NEXT = 8, 64


def text_groups(max_running: int) -> dict[str, int]:
    """Return the actor's concurrency groups. Each turn, which may have a single question, waits in a thread of its own
    until it is written; as many more, up to `_MAX_NEXT`, receive their memory meanwhile."""
    return {**GROUPS, "turns": max(max_running + min(max_running, _MAX_NEXT), _MIN_TURNS), "events": 1}


class TextActor(AgentActor):
    """An `AgentActor` that writes. One thread owns the engine; it also executes the turns that need hidden states."""

    def __init__(
        self,
        make_runner: Callable[[], TextRunner],
        num_threads: int,
        key: RunKey | None = None,
        *,
        question_seconds: float | None = None,
        lease_seconds: float | None = None,
    ) -> None:
        """`question_seconds` is the limit for one question, from its start."""
        super().__init__(lambda: self._set_up(make_runner()), num_threads, key, lease_seconds=lease_seconds)
        self._question_seconds = question_seconds
        self._events = EventQueue()
        self._writer: Writer | None = None
        self._cuda_device: int | None = None

    def write_turn(
        self, number: int, work: TurnRequest, later: Sequence[Sequence[Any]], *first: SentChunk
    ) -> TurnResult:
        """Write one turn; return its result when all of its questions have ended. `first` and `later` are those of
        `run_turn`."""
        self._is_ready.wait()
        assert self._writer is not None, "load() comes first"
        if work.traced:
            return self._engine.submit(self._execute_whole_turn, work, later, first).result()
        if self._cuda_device is not None:
            torch.cuda.set_device(self._cuda_device)
        incoming, work = self._incoming(work, later, first), fetch_given_memory(work)
        return write_turn(self._writer, self._transport, number, work, incoming)

    def cancel_questions(self, number: int, question_ids: Collection[str] | None = None) -> None:
        """Drop these questions (default: all) of a turn, which may not have started yet."""
        assert self._writer is not None, "load() comes first"
        self._writer.cancel(number, question_ids)

    def rejoin(self, nonce: bytes) -> Rejoined:
        """Like that of `AgentActor`; the questions of the former driver are dropped."""
        assert self._writer is not None, "load() comes first"
        self._writer.cancel_all()
        self._events.take(0.0)
        return super().rejoin(nonce)

    def next_events(self, timeout_seconds: float) -> TextReport:
        """Wait until there is something to report, at most `timeout_seconds`; return what has happened."""
        events = self._events.take(timeout_seconds)
        return TextReport(num_steps=0 if self._writer is None else self._writer.num_steps, events=events)

    def get_progress(self) -> list[TurnProgress]:
        """Return how far the turns are that are being written."""
        return [*super().get_progress(), *([] if self._writer is None else self._writer.progress)]

    def _set_up(self, runner: TextRunner) -> TextRunner:
        """Make the writer, in the engine's thread; return `runner`."""
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            self._cuda_device = torch.cuda.current_device()
        self._writer = self._make_writer(runner)
        return runner

    def _make_writer(self, runner: TextRunner) -> Writer:
        return Writer(
            runner.engine,
            self._engine.submit,
            recompute=runner.recompute,
            translate=runner.translate,
            question_seconds=self._question_seconds,
            on_event=self._events.put,
        )

    def _execute_whole_turn(self, work: TurnRequest, later: Sequence[Any], first: Sequence[Any]) -> TurnResult:
        assert self._writer is not None
        begin = time.time()
        try:
            _, result = self._execute_turn(work, later, first, None, overlaps=False)
        finally:
            self._writer.record_work(begin)
        return result
