"""A runtime without models or processes: a virtual clock, failures on demand, and a record of all requests."""

from collections.abc import Callable, Collection, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from math import ceil
from typing import Any
from weakref import WeakSet

from latentmas_ray.engine.diagnostics.trace import AgentTrace, Alarm, EmbeddingMap
from latentmas_ray.engine.timing.progress import TurnProgress
from latentmas_ray.engine.turn import Phases, SampleText, SegmentRead, TurnRequest, TurnResult
from latentmas_ray.errors import TurnError, TurnLostError
from latentmas_ray.scheduler.protocol import Event, RuntimeInfo, TurnFailed, TurnHandle, TurnLost, events_of_result

BYTES_PER_TOKEN = 10


@dataclass(eq=False)
class FakeSegment:
    """The memory of one turn: exists as long as something refers to it."""

    work: TurnRequest
    num_bytes: tuple[int, ...]
    finishes_at: float
    error: Exception | None

    @property
    def batch_key(self) -> tuple[str, ...]:
        return self.work.question_ids


@dataclass(eq=False)
class FakeResult:
    finishes_at: float
    report: TurnResult
    error: Exception | None


@dataclass(frozen=True)
class Took:
    """One turn: agent, batch, questions, and when it was submitted and ran."""

    agent: str
    batch: int
    question_ids: tuple[str, ...]
    submitted_at: float
    started_at: float
    finished_at: float


@dataclass
class FakeRuntime:
    """Every agent is one worker that executes its turns in the order of submission.

    With `is_synchronous` a turn is finished when `submit` returns, as in one process.
    """

    seconds: Callable[[TurnRequest], float] = lambda work: 1.0
    failure: Callable[[TurnRequest], Exception | None] = lambda work: None
    falls_back: Callable[[TurnRequest, str], bool] = lambda work, question: False  # under the guard `text`
    answer: Callable[[TurnRequest, str, int], str] | None = None  # the text of a question and a sample
    on_wait: Callable[["FakeRuntime"], None] = lambda runtime: None
    tokens_per_byte: float = 1.0
    memory_limit_bytes: int = 10**9
    is_synchronous: bool = False
    reports_losses: bool = True  # of segments in `gone`; else only their readers find out
    now: float = 0.0
    turns: list[Took] = field(default_factory=list)
    works: list[TurnRequest] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    cancelled_questions: list[tuple[str, str]] = field(default_factory=list)  # agent, question
    freed: list[str] = field(default_factory=list)
    peak_bytes: int = 0  # of live segments, while more than one batch has some
    segments: WeakSet[FakeSegment] = field(default_factory=WeakSet)
    gone: WeakSet[FakeSegment] = field(default_factory=WeakSet)
    handles: WeakSet[TurnHandle] = field(default_factory=WeakSet)
    _reported: WeakSet[FakeSegment] = field(default_factory=WeakSet)  # as lost
    _pending: list[TurnHandle] = field(default_factory=list)
    _free_at: dict[str, float] = field(default_factory=dict)

    def clock(self) -> float:
        return self.now

    def start(self) -> RuntimeInfo:
        return RuntimeInfo(
            bytes_per_token=BYTES_PER_TOKEN, memory_limit_bytes=self.memory_limit_bytes, description="fake"
        )

    def submit(self, work: TurnRequest, segments: Mapping[str, Any]) -> TurnHandle:
        assert tuple(segments) == work.segment_order()
        assert all(segment.batch_key == work.question_ids for segment in segments.values())
        started_at = max([self.now, self._free_at.get(work.agent, 0.0), *(s.finishes_at for s in segments.values())])
        inherited = next((s.error for s in segments.values() if s.error is not None), None)
        error: Exception | None
        if isinstance(inherited, TurnLostError) or any(segment in self.gone for segment in segments.values()):
            error = TurnLostError(f"{work.agent} lost what it reads")
        else:
            error = TurnError(f"{work.agent} lost what it reads") if inherited else self.failure(work)
        # A turn that cannot start fails as soon as what it reads has failed.
        finished_at = started_at if inherited else started_at + self.seconds(work)
        self._free_at[work.agent] = finished_at
        self.works.append(work)
        self.turns.append(Took(work.agent, work.batch, work.question_ids, self.now, started_at, finished_at))
        if self.is_synchronous:
            self.now = finished_at
        report = self._report(work, segments)
        segment = FakeSegment(work, report.segment_bytes, finished_at, error) if work.thinks == "latent" else None
        record = FakeResult(finished_at, report, error)
        handle = TurnHandle(work.agent, segment, record, work.question_ids, work.is_last)
        self.handles.add(handle)
        self._pending.append(handle)
        if segment is not None:
            self.segments.add(segment)
        self._measure()
        return handle

    def poll(self, timeout_seconds: float) -> list[Event]:
        assert self._pending
        self.on_wait(self)
        first = min(handle.turn.finishes_at for handle in self._pending)
        self.now = max(self.now, min(first, self.now + timeout_seconds))
        events: list[Event] = []
        # The latest first: a driver must not rely on any order.
        for handle in reversed(self._pending):
            if handle.turn.finishes_at <= self.now:
                events += self._outcome(handle)
        self._pending = [handle for handle in self._pending if handle.turn.finishes_at > self.now]
        lost = self.gone - self._reported if self.reports_losses else ()
        for segment in [segment for segment in lost if segment.finishes_at <= self.now]:
            self._reported.add(segment)
            events += [TurnLost(handle, "its segment is gone") for handle in self.handles if handle.segment is segment]
        return events

    @staticmethod
    def _outcome(handle: TurnHandle) -> list[Event]:
        if handle.turn.error is None:
            return events_of_result(handle, handle.turn.report)
        error = copy(handle.turn.error)  # a copy: the stored error would get a traceback that keeps the handle alive
        if isinstance(error, TurnLostError):
            return [TurnLost(handle, str(error), lacks_memory=error.lacks_memory, is_suspect=error.is_suspect)]
        return [TurnFailed(handle, error)]

    def cancel(self, handles: Sequence[TurnHandle], question_ids: Collection[str] | None = None) -> None:
        if question_ids is not None:
            self.cancelled_questions += [(handle.agent, name) for handle in handles for name in sorted(question_ids)]
            return
        self.cancelled += [handle.agent for handle in handles]
        self._pending = [handle for handle in self._pending if handle not in handles]

    def free_segments(self, handles: Sequence[TurnHandle]) -> None:
        self.freed += [handle.agent for handle in handles]

    def running_turns(self) -> list[TurnProgress]:
        return []

    def close(self) -> None:
        pass

    def turns_of(self, agent: str) -> list[Took]:
        return [turn for turn in self.turns if turn.agent == agent]

    def _report(self, work: TurnRequest, segments: Mapping[str, FakeSegment]) -> TurnResult:
        num_bytes = [sum(len(message["content"]) for message in prompt.messages) for prompt in work.prompts]
        prompt_tokens = tuple(ceil(count * self.tokens_per_byte) for count in num_bytes)
        # The text names all questions of the batch, so that a test sees whether a batch was the same again.
        texts = tuple(f"{work.agent} on {name} among {' '.join(work.question_ids)}" for name in work.question_ids)
        samples: tuple[tuple[SampleText, ...], ...] = ()
        if self.answer is not None and work.is_last:
            written = [[self.answer(work, name, one) for one in range(work.samples)] for name in work.question_ids]
            texts = tuple(own[0] for own in written)
            if work.samples > 1:
                samples = tuple(
                    tuple(SampleText(token_ids=tuple(range(len(text) % 7)), text=text) for text in own)
                    for own in written
                )
        is_text = work.thinks == "text"
        return TurnResult(
            agent=work.agent,
            prompt_tokens=prompt_tokens,
            latent_steps=work.latent_steps,
            output_token_ids=tuple(tuple(range(len(text) % 7)) for text in texts) if is_text else (),
            texts=texts if is_text else (),
            samples=samples,
            phases=Phases(prefill=0.25, decode=0.5) if is_text else Phases(prefill=0.25, think=0.5),
            segment_bytes=()
            if is_text
            else tuple((count + work.latent_steps) * BYTES_PER_TOKEN for count in prompt_tokens),
            memory_tokens=prompt_tokens,
            reads=tuple(
                SegmentRead(
                    source=name,
                    num_bytes=sum(segment.num_bytes),
                    moved_bytes=sum(segment.num_bytes),
                    transport="fake",
                    seconds=0.125,
                )
                for name, segment in segments.items()
            ),
            traces={
                name: AgentTrace(prompt=f"{work.agent} on {name}", reads=tuple(segments))
                for name in work.question_ids
                if name in work.traced
            },
            alarms=tuple(
                (Alarm(kind="norm", step=0, value=9.0, limit=2.0),) if self.falls_back(work, name) else ()
                for name in work.question_ids
            )
            if work.guard != "off"
            else (),
            fallbacks={
                name: f"{work.agent} wrote on {name}"
                for name in work.question_ids
                if work.guard == "text" and self.falls_back(work, name)
            },
            embeddings=EmbeddingMap(explained=(0.5, 0.25), tokens=(("a", 1.0, 2.0),)) if work.is_last else None,
        )

    def _measure(self) -> None:
        live = list(self.segments)
        if len({segment.batch_key for segment in live}) > 1:
            self.peak_bytes = max(self.peak_bytes, sum(sum(segment.num_bytes) for segment in live))
