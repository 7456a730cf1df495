"""What a run reports while it runs: events to its observer, and metrics to a monitoring system."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from latentmas_ray.engine.turn import TurnResult
from latentmas_ray.runs.results import Answer, Failure
from latentmas_ray.runs.run_events import (
    MemoryFinished,
    Observer,
    QuestionAnswered,
    QuestionFailed,
    RunEnded,
    RunEvent,
    RunProgress,
    RunStarted,
    TurnFinished,
    TurnRepeated,
)
from latentmas_ray.scheduler.protocol import TurnDone, TurnHandle


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric. A counter only grows, and its name ends in `_total`; a gauge has the value that was set last."""

    name: str
    kind: Literal["counter", "gauge"]
    description: str
    tags: tuple[str, ...] = ("agent",)


QUESTIONS = Metric(
    name="latentmas_questions_total",
    kind="counter",
    description="questions that have a result; outcome: answered or failed",
    tags=("outcome",),
)
TURNS = Metric(name="latentmas_turns_total", kind="counter", description="turns that agents have finished")
LOST_TURNS = Metric(
    name="latentmas_lost_turns_total",
    kind="counter",
    description="turns that were lost with their actor or their memory, and submitted again",
)
TOKENS = Metric(
    name="latentmas_tokens_total",
    kind="counter",
    description="tokens processed; kind: prompt (read) or output (written)",
    tags=("agent", "kind"),
)
LATENT_STEPS = Metric(
    name="latentmas_latent_steps_total", kind="counter", description="latent thoughts, over all questions of a batch"
)
PHASE_SECONDS = Metric(
    name="latentmas_phase_seconds_total",
    kind="counter",
    description="seconds of turns; phase: wait, absorb, prefill, think, decode or emit",
    tags=("agent", "phase"),
)
_READ = ("agent", "source", "transport", "link")  # the reader, the writer of the segment, and how it was moved
MOVED_BYTES = Metric(
    name="latentmas_moved_bytes_total",
    kind="counter",
    description="bytes of working memory that had to move for this reader",
    tags=_READ,
)
TRANSFER_SECONDS = Metric(
    name="latentmas_transfer_seconds_total",
    kind="counter",
    description="seconds until readers had absorbed working memory, the exposed ones included",
    tags=_READ,
)
EXPOSED_SECONDS = Metric(
    name="latentmas_exposed_seconds_total",
    kind="counter",
    description="the part of the transfers' seconds that no computation hid",
    tags=_READ,
)
TURNS_IN_FLIGHT = Metric(
    name="latentmas_turns_in_flight",
    kind="gauge",
    description="queue depth: turns that are submitted and not finished",
)
MEMORY_BYTES = Metric(
    name="latentmas_memory_in_flight_bytes",
    kind="gauge",
    description="working memory that this agent wrote and that is still needed",
)
BATCHES_WAITING = Metric(
    name="latentmas_batches_waiting", kind="gauge", description="batches that are not admitted yet", tags=()
)
METRICS = (
    QUESTIONS,
    TURNS,
    LOST_TURNS,
    TOKENS,
    LATENT_STEPS,
    PHASE_SECONDS,
    MOVED_BYTES,
    TRANSFER_SECONDS,
    EXPOSED_SECONDS,
    TURNS_IN_FLIGHT,
    MEMORY_BYTES,
    BATCHES_WAITING,
)
_BY_NAME = {metric.name: metric for metric in METRICS}


@dataclass(frozen=True, kw_only=True)
class LoadSnapshot:
    """The load of the scheduler at one moment, over all runs. Agents that are missing have none."""

    batches_in_flight: int = 0
    batches_waiting: int = 0
    turns_in_flight: Mapping[str, int] = field(default_factory=dict)  # by agent
    memory_bytes: Mapping[str, int] = field(
        default_factory=dict
    )  # of segments that exist, by the agent that wrote them


class MetricSink(Protocol):
    """Receives the values of metrics."""

    def record(self, metric: Metric, value: float, tags: Mapping[str, str]) -> None:
        """Add `value` (above 0) to a counter, or set a gauge to it; `tags` has all of `metric.tags`."""


class NoMetrics:
    """Ignores all metrics."""

    def record(self, metric: Metric, value: float, tags: Mapping[str, str]) -> None: ...


def record_load(sink: MetricSink, load: LoadSnapshot, agents: Iterable[str]) -> None:
    """Record the load; `agents` are the agents of all runs so far, so that idle ones are recorded as 0."""
    sink.record(BATCHES_WAITING, load.batches_waiting, {})
    for agent in agents:
        sink.record(TURNS_IN_FLIGHT, load.turns_in_flight.get(agent, 0), {"agent": agent})
        sink.record(MEMORY_BYTES, load.memory_bytes.get(agent, 0), {"agent": agent})


class RunMetrics:
    """An observer that records one run's events as metrics.

    Sums are recorded whenever the run reports its progress, and at its end: a turn changes a dozen counters, and a call
    for each would be much of the scheduler's work.
    """

    def __init__(self, sink: MetricSink) -> None:
        self._sink = sink
        # Not recorded yet, by the name of the metric and the values of its tags.
        self._sums: dict[tuple[str, tuple[str, ...]], float] = {}

    def on_event(self, event: RunEvent) -> None:
        match event:
            case TurnFinished(report=result):
                self._record_turn(result)
            case TurnRepeated(agent=agent):
                self._count(LOST_TURNS, 1, agent)
            case QuestionAnswered() | MemoryFinished():
                self._count(QUESTIONS, 1, "answered")
            case QuestionFailed():
                self._count(QUESTIONS, 1, "failed")
            case RunProgress() | RunEnded():
                self._record_sums()

    def _record_turn(self, result: TurnResult) -> None:
        agent = result.agent
        self._count(TURNS, 1, agent)
        self._count(TOKENS, sum(result.prompt_tokens), agent, "prompt")
        self._count(TOKENS, result.total_written, agent, "output")
        self._count(LATENT_STEPS, result.total_steps, agent)
        for phase, seconds in vars(result.phases).items():
            self._count(PHASE_SECONDS, seconds, agent, phase)
        for read in result.reads:
            tags = (agent, read.source, read.transport, read.link)
            self._count(MOVED_BYTES, read.moved_bytes, *tags)
            self._count(TRANSFER_SECONDS, read.seconds, *tags)
            self._count(EXPOSED_SECONDS, read.exposed_seconds, *tags)

    def _count(self, metric: Metric, value: float, *tags: str) -> None:
        """Add to a counter; `tags` are the values of its tags, in their order."""
        if value > 0:
            key = metric.name, tags
            self._sums[key] = self._sums.get(key, 0) + value

    def _record_sums(self) -> None:
        sums, self._sums = self._sums, {}
        for (name, tags), value in sums.items():
            metric = _BY_NAME[name]
            self._sink.record(metric, value, dict(zip(metric.tags, tags, strict=True)))


class RunCounters:
    """Counts what a run has done, and sends the events of the run to its observer and its metrics."""

    def __init__(
        self,
        observer: Observer | None,
        metrics: RunMetrics,
        clock: Callable[[], float],
        num_questions: int,
        num_done: int,
        *,
        on_error: Callable[[Exception], None],
    ) -> None:
        """`on_error` is called with exceptions of the observer; the scheduler, which serves other runs, continues."""
        self.num_questions = num_questions
        self._observer = observer
        self._metrics = metrics
        self._clock = clock
        self._on_error = on_error
        self._num_done = num_done
        self._num_failed = 0
        self._tokens = 0
        self._started_at = clock()

    def count_turn(self, event: TurnDone) -> None:
        """Count the prompt, latent and output tokens of a finished turn."""
        result, handle = event.result, event.handle
        self._tokens += sum(result.prompt_tokens) + result.total_steps
        self._tokens += result.total_written
        self.send(
            TurnFinished(report=result, question_ids=handle.question_ids, place=handle.place, seen_at=event.seen_at)
        )

    def count_answer(self, answer: Answer) -> None:
        """Count a question that has its answer."""
        self._num_done += 1
        self.send(QuestionAnswered(answer=answer))

    def count_failure(self, failure: Failure) -> None:
        """Count a question that failed for good."""
        self._num_failed += 1
        self.send(QuestionFailed(failure=failure))

    def count_fault(self, handle: TurnHandle, reason: str) -> None:
        """Report that a turn was lost and is submitted again, or its questions alone."""
        self.send(TurnRepeated(agent=handle.agent, reason=reason, question_ids=handle.question_ids, place=handle.place))

    def count_memory(self, question_id: str) -> None:
        """Count a question whose memory is complete."""
        self._num_done += 1
        self.send(MemoryFinished(question_id=question_id))

    def send_progress(
        self, *, batches_in_flight: int, memory_bytes: int, num_writing: int = 0, num_written: int = 0
    ) -> None:
        """Send a snapshot of the run; `memory_bytes` is the memory in flight of all runs, `num_written` are the tokens
        of the texts of turns that are not over."""
        self.send(
            RunProgress(
                num_questions=self.num_questions,
                num_done=self._num_done,
                num_failed=self._num_failed,
                batches_in_flight=batches_in_flight,
                memory_in_flight_bytes=memory_bytes,
                tokens=self._tokens + num_written,
                num_writing=num_writing,
                seconds=self._clock() - self._started_at,
            )
        )

    def start(self, description: str) -> None:
        """Report that the run starts on a runtime with this description."""
        self.send(RunStarted(description=description, num_questions=self.num_questions, num_done=self._num_done))

    def finish(self) -> None:
        """Report that the run is over, for whatever reason."""
        self.send(RunEnded())

    def send(self, event: RunEvent) -> None:
        """Pass an event to the run's listeners."""
        self._metrics.on_event(event)
        if self._observer is None:
            return
        try:
            self._observer.on_event(event)
        except Exception as error:  # noqa: BLE001  observers can raise anything
            self._on_error(error)
