"""What a run tells a monitoring system while it goes on: the list of all metrics, and when each is recorded."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal, Protocol

from latentmas_ray.engine.turn import TurnResult
from latentmas_ray.runs.run_events import (
    MemoryFinished,
    QuestionAnswered,
    QuestionFailed,
    RunEvent,
    TurnFinished,
    TurnRepeated,
)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A counter only grows, and its name ends in `_total`; a gauge is what it was last set to."""

    name: str
    kind: Literal["counter", "gauge"]
    description: str
    tags: tuple[str, ...] = ("agent",)


QUESTIONS = Metric(
    name="latentmas_questions_total",
    kind="counter",
    description="questions that were settled; outcome: answered or failed",
    tags=("outcome",),
)
TURNS = Metric(name="latentmas_turns_total", kind="counter", description="turns that agents have finished")
LOST_TURNS = Metric(
    name="latentmas_lost_turns_total",
    kind="counter",
    description="turns that were lost with their actor or their memory, and carried out again",
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
_READ = ("agent", "source", "transport", "link")  # who reads, whose segment, and by which way
MOVED_BYTES = Metric(
    name="latentmas_moved_bytes_total",
    kind="counter",
    description="bytes of working memory that had to move for this reader",
    tags=_READ,
)
EXPOSED_SECONDS = Metric(
    name="latentmas_exposed_seconds_total",
    kind="counter",
    description="seconds of transfers that no computation hid",
    tags=_READ,
)
TURNS_IN_FLIGHT = Metric(
    name="latentmas_turns_in_flight",
    kind="gauge",
    description="queue depth: turns that are submitted and have not reported",
)
MEMORY_BYTES = Metric(
    name="latentmas_memory_in_flight_bytes",
    kind="gauge",
    description="working memory that this agent wrote and somebody may still read",
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
    EXPOSED_SECONDS,
    TURNS_IN_FLIGHT,
    MEMORY_BYTES,
    BATCHES_WAITING,
)


@dataclass(frozen=True, kw_only=True)
class LoadSnapshot:
    """What is under way at one moment in all runs. An agent that is left out has nothing."""

    batches_in_flight: int = 0
    batches_waiting: int = 0
    turns_in_flight: Mapping[str, int] = field(default_factory=dict)  # by agent
    memory_bytes: Mapping[str, int] = field(default_factory=dict)  # of segments that exist, by who wrote them


class MetricSink(Protocol):
    """Where metrics go."""

    def record(self, metric: Metric, value: float, tags: Mapping[str, str]) -> None:
        """A counter grows by `value` (above 0), a gauge becomes `value`; `tags` has all of `metric.tags`."""


class NoMetrics:
    """They go nowhere."""

    def record(self, metric: Metric, value: float, tags: Mapping[str, str]) -> None: ...


def record_load(sink: MetricSink, load: LoadSnapshot, agents: Iterable[str]) -> None:
    """What is under way now, in all runs together; `agents` are all that a run has had."""
    sink.record(BATCHES_WAITING, load.batches_waiting, {})
    for agent in agents:
        sink.record(TURNS_IN_FLIGHT, load.turns_in_flight.get(agent, 0), {"agent": agent})
        sink.record(MEMORY_BYTES, load.memory_bytes.get(agent, 0), {"agent": agent})


class RunMetrics:
    """An observer that records one run's events as metrics."""

    def __init__(self, sink: MetricSink) -> None:
        self._sink = sink

    def on_event(self, event: RunEvent) -> None:
        match event:
            case TurnFinished(report=report):
                self._turn(report)
            case TurnRepeated(agent=agent):
                self._count(LOST_TURNS, 1, agent=agent)
            case QuestionAnswered() | MemoryFinished():
                self._count(QUESTIONS, 1, outcome="answered")
            case QuestionFailed():
                self._count(QUESTIONS, 1, outcome="failed")

    def _turn(self, report: TurnResult) -> None:
        agent = report.agent
        self._count(TURNS, 1, agent=agent)
        self._count(TOKENS, sum(report.prompt_tokens), agent=agent, kind="prompt")
        self._count(TOKENS, sum(map(len, report.output_token_ids)), agent=agent, kind="output")
        self._count(LATENT_STEPS, report.latent_steps * len(report.prompt_tokens), agent=agent)
        for phase, seconds in asdict(report.phases).items():
            self._count(PHASE_SECONDS, seconds, agent=agent, phase=phase)
        for read in report.reads:
            way = {"agent": agent, "source": read.source, "transport": read.transport, "link": read.link}
            self._count(MOVED_BYTES, read.moved_bytes, **way)
            self._count(EXPOSED_SECONDS, read.exposed_seconds, **way)

    def _count(self, metric: Metric, value: float, **tags: str) -> None:
        if value > 0:
            self._sink.record(metric, value, tags)
