"""The spans of one run: its questions, the turns over each of them, and the run itself.

Every question has a trace of its own (`invoke_workflow`), with a span for each turn over it (`invoke_agent`), which
links to the spans of the agents whose memory it read. A turn over a batch is thus a span in the trace of each of its
questions. Where the caller has a span, the questions belong to its trace; a question that was asked over HTTP belongs
to that of its request. The run's span has replicas and nodes that came and went as its events; the questions' spans
link to it.
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanContext, Status, StatusCode, Tracer

from latentmas_ray.errors import hide_passwords
from latentmas_ray.runs.otel import attributes as names
from latentmas_ray.runs.otel.attributes import Attributes, SpanFacts
from latentmas_ray.runs.results import Answer
from latentmas_ray.runs.run_events import (
    ClusterEvent,
    MemoryFinished,
    QuestionAnswered,
    QuestionFailed,
    RunEnded,
    RunEvent,
    RunStarted,
    TurnFinished,
    TurnRepeated,
)
from latentmas_ray.runs.timeline.clocks import NodeClocks
from latentmas_ray.runs.timeline.rows import ROW, TurnRow, cluster_row, turn_row

_LOG = logging.getLogger(__name__)


@dataclass(eq=False)
class _OpenSpans:
    """A question whose spans are not complete."""

    span: Span
    turns: dict[str, SpanContext] = field(default_factory=dict)  # the last one of each agent, for links
    is_settled: bool = False  # it is answered, or failed
    missing: frozenset[str] | None = None  # answering agents whose turns are still to come; None: all of them


class RunSpans:
    """An observer that makes spans of one run's events. It never raises: telemetry ends no run."""

    def __init__(
        self,
        tracer: Tracer,
        facts: SpanFacts,
        parent: Context | None = None,
        parents: Mapping[str, Context] | None = None,
    ) -> None:
        """`parent` has the caller's span, if it has one; `parents`, by question, those of questions that several
        callers have asked."""
        self._tracer, self._facts = tracer, facts
        self._parent = Context() if parent is None else parent
        self._parents = parents or {}
        self._run: Span | None = None
        self._questions: dict[str, _OpenSpans] = {}
        self._finished: set[str] = set()
        self._clocks = NodeClocks()
        self._num_answered = self._num_failed = 0
        self._has_failed = False

    def on_event(self, event: RunEvent) -> None:
        """Make the spans of an event."""
        if self._has_failed:
            return
        try:
            self._handle(event, time.time())
        except Exception as error:  # noqa: BLE001  samplers, processors and exporters of the SDK can be anybody's
            self._has_failed = True
            _LOG.warning("the run has no spans from here on: %s: %s", type(error).__name__, error)

    def _handle(self, event: RunEvent, at: float) -> None:
        match event:
            case TurnFinished():
                self._add_turn(event)
            case TurnRepeated():
                self._add_lost_turn(event, at)
            case QuestionAnswered(answer=answer):
                self._answer(answer, at)
            case MemoryFinished(question_id=name):
                self._settle(name, self._question(name, at), at)
            case QuestionFailed(failure=failure):
                self._num_failed += 1
                question = self._question(failure.id, at)
                _set_error(question.span, "question_failed", f"{failure.agent}: {failure.error}")
                self._settle(failure.id, question, at)
            case RunStarted():
                self._start(event, at)
            case RunEnded():
                self._end(at)
            case _ if isinstance(event, ClusterEvent):
                self._add_cluster_event(event)

    def _start(self, event: RunStarted, at: float) -> None:
        attributes: Attributes = {
            names.WORKFLOW: self._facts.workflow,
            names.MODEL: self._facts.model,
            "latentmas.method": self._facts.method,
            "latentmas.run.runtime": event.description,
            "latentmas.run.questions": event.num_questions,
            "latentmas.run.done_before": event.num_done,
        }
        self._run = self._tracer.start_span(
            f"run {self._facts.workflow}", context=self._parent, attributes=attributes, start_time=_nanoseconds(at)
        )

    def _question(self, name: str, at: float) -> _OpenSpans:
        """Return the open spans of a question; its own one begins now, if this is its first event."""
        if (known := self._questions.get(name)) is not None:
            return known
        attributes: Attributes = {
            names.OPERATION: names.INVOKE_WORKFLOW,
            names.WORKFLOW: self._facts.workflow,
            names.QUESTION_ID: name,
            "latentmas.method": self._facts.method,
        }
        if (text := self._facts.questions.get(name)) is not None:
            attributes[names.INPUT_MESSAGES] = names.message("user", text)
        links = [] if self._run is None else [Link(self._run.get_span_context(), {"latentmas.relation": "run"})]
        span = self._tracer.start_span(
            f"{names.INVOKE_WORKFLOW} {self._facts.workflow}",
            context=self._parents.get(name, self._parent),
            attributes=attributes,
            links=links,
            start_time=_nanoseconds(at),
        )
        self._questions[name] = question = _OpenSpans(span)
        return question

    def _add_turn(self, event: TurnFinished) -> None:
        row = ROW.validate_python(turn_row(event))
        assert isinstance(row, TurnRow)
        self._clocks.add(row)
        row = self._clocks.on_drivers_clock(row)
        for place, name in enumerate(row.questions):
            if name in self._finished:
                continue  # it was answered before this turn of another agent ended
            question = self._question(name, row.submitted_at)
            if not (question.is_settled and row.question_spans and not row.question_spans[place]):
                # Else the turn was repeated for other questions only.
                self._add_turn_of(question, name, place, event, row)
            if row.agent in self._facts.answering_agents:
                missing = frozenset(self._facts.answering_agents) if question.missing is None else question.missing
                question.missing = missing - {row.agent}
                self._forget_complete(name, question)

    def _add_turn_of(self, question: _OpenSpans, name: str, place: int, event: TurnFinished, row: TurnRow) -> None:
        spans = names.spans_of(row, place)
        begin = min((begin for _, begin, _ in spans), default=row.submitted_at)
        end = max((end for _, _, end in spans), default=row.seen_at)
        links = [
            Link(context, names.hand_over_attributes(read))
            for read in row.reads
            if (context := question.turns.get(read.source)) is not None
        ]
        attributes = names.agent_attributes(self._facts, row.agent, name, row.replica)
        attributes |= names.turn_attributes(self._facts, event.report, row, place)
        span = self._start_agent(question, row.agent, attributes, links, begin)
        if (reason := event.report.failed.get(name)) is not None:
            _set_error(span, "question_failed", reason)
        span.end(_nanoseconds(end))
        question.turns[row.agent] = span.get_span_context()

    def _add_lost_turn(self, event: TurnRepeated, at: float) -> None:
        submitted_at = event.place.submitted_at or at
        for name in event.question_ids:
            if name in self._finished:
                continue
            question = self._question(name, submitted_at)
            attributes = names.agent_attributes(self._facts, event.agent, name, event.place.replica)
            span = self._start_agent(question, event.agent, attributes, [], submitted_at)
            _set_error(span, "turn_lost", event.reason)
            span.end(_nanoseconds(max(at, submitted_at)))

    def _start_agent(
        self, question: _OpenSpans, agent: str, attributes: Attributes, links: list[Link], begin: float
    ) -> Span:
        return self._tracer.start_span(
            f"{names.INVOKE_AGENT} {agent}",
            context=trace.set_span_in_context(question.span, Context()),
            attributes=attributes,
            links=links,
            start_time=_nanoseconds(begin),
        )

    def _answer(self, answer: Answer, at: float) -> None:
        self._num_answered += 1
        question = self._question(answer.id, at - answer.seconds)
        if answer.correct is not None:
            question.span.set_attribute("latentmas.answer.correct", answer.correct)
        if answer.id in self._facts.questions:
            reason = "length" if answer.is_cut_off else "stop"
            question.span.set_attribute(
                names.OUTPUT_MESSAGES, names.message("assistant", answer.answer, finish_reason=reason)
            )
        self._settle(answer.id, question, at)

    def _settle(self, name: str, question: _OpenSpans, at: float) -> None:
        """End a question's span. Its last turn may still run, for other questions."""
        question.span.end(_nanoseconds(at))
        question.is_settled = True
        self._forget_complete(name, question)

    def _forget_complete(self, name: str, question: _OpenSpans) -> None:
        if question.is_settled and question.missing is not None and not question.missing:
            del self._questions[name]
            self._finished.add(name)

    def _add_cluster_event(self, event: ClusterEvent) -> None:
        if self._run is None:
            return
        row = cluster_row(event)
        about = vars(row) | {"reason": hide_passwords(row.reason)}
        attributes = {f"latentmas.{key}": value for key, value in about.items() if value and key not in ("event", "at")}
        self._run.add_event(f"latentmas.{row.event}", attributes, _nanoseconds(row.at))

    def _end(self, at: float) -> None:
        for question in self._questions.values():
            if not question.is_settled:
                _set_error(question.span, "run_ended", "the run ended before it was answered")
                question.span.end(_nanoseconds(at))
        self._questions.clear()
        if self._run is not None:
            self._run.set_attribute("latentmas.run.answered", self._num_answered)
            self._run.set_attribute("latentmas.run.failed", self._num_failed)
            self._run.end(_nanoseconds(at))


def _set_error(span: Span, kind: str, reason: str) -> None:
    span.set_attribute(names.ERROR_TYPE, kind)
    span.set_status(Status(StatusCode.ERROR, hide_passwords(reason)))


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
