"""A fake runtime whose text agents write the questions of several turns at the same time."""

import heapq
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from latentmas_ray.engine.turn import Phases, TurnRequest, TurnResult
from latentmas_ray.scheduler.protocol import (
    Event,
    QuestionDone,
    RuntimeInfo,
    TokensWritten,
    TurnDone,
    TurnHandle,
)
from tests.cases.fake_runtime import FakeRuntime

PREFILL_SECONDS = 0.25  # a question's share


@dataclass(eq=False)
class FakeQuestion:
    """One question of a turn: when it is written, and how many tokens it gets."""

    id: str
    index: int
    starts_at: float
    ends_at: float
    num_tokens: int
    is_reported: bool = False


@dataclass
class QuestionRuntime(FakeRuntime):
    """The text agents in `writes_at_once` have so many places; a question takes the first place that is free.

    A turn that fails reports the questions that end before it. `takes_with_fault` are the seconds until it does.
    """

    writes_at_once: dict[str, int] = field(default_factory=lambda: {"judger": 4})
    question_seconds: Callable[[TurnRequest, str], float] = lambda work, name: 1.0
    question_failure: Callable[[TurnRequest, str], str | None] = lambda work, name: None
    takes_with_fault: float = 1.5
    reported_after: Callable[[TurnRequest], float] = lambda work: 0.0  # seconds from the end of a turn to its event
    is_lost: Callable[[Event], bool] = lambda event: False  # an event that never comes
    written: list[tuple[str, str, float, float]] = field(default_factory=list)  # agent, question, start, end
    ignores_skipped: bool = False  # writes questions that nobody needs
    _places: dict[str, list[float]] = field(default_factory=dict)
    _questions: dict[TurnHandle, list[FakeQuestion]] = field(default_factory=dict)

    def start(self) -> RuntimeInfo:
        return replace(super().start(), writes_at_once=self.writes_at_once)

    def submit(self, work: TurnRequest, segments: Mapping[str, Any]) -> TurnHandle:
        work = replace(work, skipped=frozenset()) if self.ignores_skipped else work
        handle = super().submit(work, segments)
        if work.agent in self.writes_at_once:
            ready = max([self.now, *(segment.finishes_at for segment in segments.values())])
            self._write(handle, work, ready)
        handle.turn.finishes_at += self.reported_after(work)
        return handle

    @property
    def num_unwritten(self) -> int:
        """Questions that wait or are being written, also those whose memory is still to be computed."""
        return sum(not one.is_reported for questions in self._questions.values() for one in questions)

    def _write(self, handle: TurnHandle, work: TurnRequest, ready: float) -> None:
        record, report = handle.turn, handle.turn.report
        places = self._places.setdefault(work.agent, [0.0] * self.writes_at_once[work.agent])
        questions = []
        for index, name in enumerate(work.question_ids):
            if name in work.skipped:
                continue
            start = max(ready, heapq.heappop(places))
            end = start + self.question_seconds(work, name)
            heapq.heappush(places, end)
            questions.append(FakeQuestion(name, index, start, end, len(report.output_token_ids[index])))
        fault_at = ready + self.takes_with_fault
        ends = [one.ends_at for one in questions]
        record.finishes_at = fault_at if record.error is not None else max([ready, *ends])
        questions = [one for one in questions if record.error is None or one.ends_at < fault_at]
        self.written += [(work.agent, one.id, one.starts_at, one.ends_at) for one in questions]
        self._questions[handle] = questions
        phases = [Phases()] * len(work.question_ids)
        for one in questions:
            phases[one.index] = Phases(prefill=PREFILL_SECONDS, decode=one.ends_at - one.starts_at)
        failures = {name: self.question_failure(work, name) for name in work.question_ids if name not in work.skipped}
        record.report = replace(
            report,
            texts=_without(report.texts, work, ""),
            output_token_ids=_without(report.output_token_ids, work, ()),
            samples=_without(report.samples, work, ()) if report.samples else (),
            question_phases=tuple(phases),
            phases=Phases(prefill=sum(one.prefill for one in phases), decode=sum(one.decode for one in phases)),
            failed={name: why for name, why in failures.items() if why is not None},
        )

    def poll(self, timeout_seconds: float) -> list[Event]:
        assert self._pending
        self.on_wait(self)
        times = [handle.turn.finishes_at for handle in self._pending]
        times += [
            one.ends_at for handle in self._pending for one in self._questions.get(handle, ()) if not one.is_reported
        ]
        self.now = max(self.now, min(min(times), self.now + timeout_seconds))
        events: list[Event] = []
        for handle in reversed(self._pending):
            if handle.turn.finishes_at > self.now:
                events += self._of_questions(handle)
            elif handle in self._questions and handle.turn.error is None:
                events.append(TurnDone(handle, handle.turn.report))
            else:
                events += [*self._of_questions(handle), *self._outcome(handle)]
        self._pending = [handle for handle in self._pending if handle.turn.finishes_at > self.now]
        for handle in self._questions.keys() - set(self._pending):
            del self._questions[handle]
        return [event for event in events if not self.is_lost(event)]

    def cancel(self, handles: Sequence[TurnHandle], question_ids: Collection[str] | None = None) -> None:
        super().cancel(handles, question_ids)
        for handle in handles:
            if question_ids is None:
                self._questions.pop(handle, None)
            else:
                self._cancel_questions(handle, question_ids)

    def _cancel_questions(self, handle: TurnHandle, question_ids: Collection[str]) -> None:
        """These end now. A turn without another question is over, and is not reported."""
        open_ones = [one for one in self._questions.get(handle, ()) if one.id not in question_ids]
        if handle in self._questions and handle.turn.error is None:
            self._questions[handle] = open_ones
            handle.turn.finishes_at = max([self.now, *(one.ends_at for one in open_ones)])
        if handle in self._pending and set(handle.question_ids) <= set(question_ids):
            self._pending.remove(handle)

    def _of_questions(self, handle: TurnHandle) -> list[Event]:
        """The tokens so far, and the questions that have ended since the last call."""
        events: list[Event] = []
        for one in self._questions.get(handle, ()):
            if one.is_reported or self.now < one.starts_at:
                continue
            share = min(1.0, (self.now - one.starts_at) / ((one.ends_at - one.starts_at) or 1.0))
            events.append(TokensWritten(handle, one.id, int(one.num_tokens * share)))
            if self.now >= one.ends_at:
                one.is_reported = True
                if handle.is_last:
                    events.append(QuestionDone(handle, one.id, result_of(handle.turn.report, one)))
        return events


def result_of(report: TurnResult, one: FakeQuestion) -> TurnResult:
    """The result of a turn for one question alone."""
    at = one.index
    return replace(
        report,
        prompt_tokens=report.prompt_tokens[at : at + 1],
        output_token_ids=report.output_token_ids[at : at + 1],
        texts=report.texts[at : at + 1],
        samples=report.samples[at : at + 1],
        memory_tokens=report.memory_tokens[at : at + 1],
        phases=report.question_phases[at],
        question_phases=report.question_phases[at : at + 1],
        failed={one.id: report.failed[one.id]} if one.id in report.failed else {},
    )


def _without(values: tuple[Any, ...], work: TurnRequest, nothing: Any) -> tuple[Any, ...]:
    pairs = zip(values, work.question_ids, strict=True)
    return tuple(nothing if name in work.skipped else value for value, name in pairs)
