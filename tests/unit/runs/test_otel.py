"""OpenTelemetry spans: what arrives at a collector, and that none of it can harm a run."""

import json
import logging
import os
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.semconv.attributes import error_attributes

from latentmas_ray import LatentMAS
from latentmas_ray.cli.main import main
from latentmas_ray.engine.turn import PhaseSpan, Sampling, SegmentRead, TurnResult
from latentmas_ray.errors import ConfigError
from latentmas_ray.runs.otel import SpanFacts, attributes, export
from latentmas_ray.runs.otel.run_spans import RunSpans
from latentmas_ray.runs.results import Answer, Failure
from latentmas_ray.runs.run_events import (
    ClusterEvent,
    NodeJoined,
    QuestionAnswered,
    QuestionFailed,
    ReplicaLost,
    RunEnded,
    RunEvent,
    RunStarted,
    TurnFinished,
    TurnPlace,
    TurnRepeated,
)
from latentmas_ray.runs.timeline.recorder import row_of_event
from tests.cases.collector import Collector, ReceivedSpan, running_collector
from tests.cases.timeline import written_timeline

SECRET = "Nadia has 5 beads. Then Nadia finds 3 more. How many beads has Nadia now?"
CONTENT = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
FACTS = SpanFacts(
    workflow="pair", answering_agents=("judger",), model="tiny", method="latent", sampling=Sampling(temperature=0.5)
)
FAST = {"latent_steps": 2, "max_new_tokens": 2, "runtime": "local", "topology": "sequential", "task": "sample"}


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with running_collector(monkeypatch) as found:
        yield found


@pytest.fixture(autouse=True)
def _fresh_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CONTENT, raising=False)


def spans_of(events: list[RunEvent], *, parent: Any = None, facts: SpanFacts = FACTS) -> dict[str, list[Any]]:
    """The spans that these events make, by name."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    observer = RunSpans(provider.get_tracer("test"), facts, parent)
    for event in events:
        observer.on_event(event)
    found: dict[str, list[Any]] = {}
    for span in exporter.get_finished_spans():
        found.setdefault(span.name, []).append(span)
    return found


def span(phase: Any, begin: float, end: float) -> PhaseSpan:
    return PhaseSpan(phase=phase, begin=begin, end=end)


def finished(agent: str, *questions: str, at: float = 10.0, ahead: float = 0.0, **more: Any) -> TurnFinished:
    """A turn of one second, on a node whose clock is ahead."""
    values: dict[str, Any] = {"prompt_tokens": (3,) * len(questions), "latent_steps": 5, **more}
    result = TurnResult(agent=agent, spans=(span("think", at + ahead, at + 1.0 + ahead),), **values)
    place = TurnPlace(f"{agent} 0", ("n1",), at - 0.1)
    return TurnFinished(report=result, question_ids=questions, place=place, seen_at=at + 1.1)


def answered(name: str, **more: Any) -> QuestionAnswered:
    plain: dict[str, Any] = {"question": SECRET, "gold": "8", "answer": "it is 8", "answer_token_ids": ()}
    return QuestionAnswered(answer=Answer(id=name, prediction="8", correct=True, seconds=2.0, **{**plain, **more}))


STARTED = RunStarted(description="two actors", num_questions=2, num_done=0)
READ = SegmentRead(
    source="planner", num_bytes=700, moved_bytes=600, transport="tcp", seconds=0.25, link="cross_node", codec="int8"
)


def test_our_names_are_those_of_the_installed_conventions() -> None:
    """The package that has them declares them private, so a new version may move them."""
    conventions = {value for name, value in vars(gen_ai_attributes).items() if name.startswith("GEN_AI_")} | {
        error_attributes.ERROR_TYPE
    }
    ours = {value for name, value in vars(attributes).items() if name.isupper() and isinstance(value, str)}
    assert {value for value in ours if value.startswith(("gen_ai.", "error."))} <= conventions
    operations = {one.value for one in gen_ai_attributes.GenAiOperationNameValues}
    assert {attributes.INVOKE_AGENT, attributes.INVOKE_WORKFLOW} <= operations


def test_a_local_run_arrives_with_parents_names_and_usage(collector: Collector, tmp_path: Path) -> None:
    with LatentMAS("tiny", limit=2, output=str(tmp_path / "run"), otel=True, **FAST) as mas:
        mas.evaluate()
    assert collector.paths == {"/v1/traces"}
    rows = [json.loads(line) for line in (tmp_path / "run" / "results.jsonl").read_text().splitlines()]
    assert not any(row["question"].encode() in b"".join(collector.requests) for row in rows)  # unasked
    (run,) = collector.named("run sequential")
    questions = collector.named("invoke_workflow sequential")
    assert {one.attributes["latentmas.question.id"] for one in questions} == {row["id"] for row in rows}
    assert collector.services == {"latentmas"}
    assert len({one.trace_id for one in (run, *questions)}) == 3
    (start,) = written_timeline(tmp_path / "run").starts
    for question in questions:
        assert question.parent_id == b""
        assert [link.span_id for link in question.links] == [run.span_id]
        name = question.attributes["latentmas.question.id"]
        agents = [one for one in collector.spans if one.parent_id == question.span_id]
        assert {one.trace_id for one in agents} == {question.trace_id}
        assert len(agents) == len({turn.agent for turn in start.turns})
        for one in agents:
            agent = one.attributes["gen_ai.agent.name"]
            check_turn(one, question, next(turn for turn in start.turns if turn.agent == agent))
            assert one.attributes["latentmas.question.id"] == name
        ids = {one.attributes["gen_ai.agent.name"]: one.span_id for one in agents}
        judger = agents[-1]
        assert judger.attributes["gen_ai.usage.output_tokens"] >= 0
        sources = {link.attributes["latentmas.hand_over.source"]: link for link in judger.links}
        assert sources
        assert all(ids[source] == link.span_id for source, link in sources.items())
        assert all(link.attributes["latentmas.hand_over.bytes"] > 0 for link in sources.values())
        assert {link.attributes["latentmas.hand_over.transport"] for link in sources.values()} == {"loopback"}


def check_turn(one: ReceivedSpan, question: ReceivedSpan, turn: Any) -> None:
    """A span of a turn agrees with its row of the timeline."""
    assert one.name == f"invoke_agent {turn.agent}"
    assert one.parent_id == question.span_id
    assert one.begin == pytest.approx(min(begin for _, begin, _ in turn.spans), abs=2e-6)
    assert one.end == pytest.approx(max(end for _, _, end in turn.spans), abs=2e-6)
    assert question.begin <= one.begin <= one.end <= question.end
    about = one.attributes
    assert about["gen_ai.operation.name"] == "invoke_agent"
    assert about["gen_ai.request.model"] == "tiny"
    assert about["gen_ai.usage.input_tokens"] > 0
    assert about["latentmas.latent_steps"] == turn.latent_steps
    assert about["latentmas.turn.questions"] == len(turn.questions)


@pytest.mark.parametrize("capture", ["true", "span_only", "", "no_content"])
def test_questions_and_answers_are_sent_only_where_they_are_asked_for(
    capture: str, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CONTENT, capture)
    with LatentMAS("tiny", otel=True, **FAST) as mas:
        answer = mas.ask(SECRET)
    (question,) = collector.named("invoke_workflow sequential")
    sent = b"Nadia" in b"".join(collector.requests)
    assert sent == (capture in ("true", "span_only"))
    if sent:
        (asked,) = json.loads(question.attributes["gen_ai.input.messages"])
        (told,) = json.loads(question.attributes["gen_ai.output.messages"])
        assert asked == {"role": "user", "parts": [{"type": "text", "content": SECRET}]}
        assert told["parts"] == [{"type": "text", "content": answer.answer}]
        assert told["finish_reason"] in ("stop", "length")


def test_each_question_of_a_batch_has_its_own_usage_and_links_to_what_it_read() -> None:
    turn = finished(
        "judger", "a", "b", at=12.0, reads=(READ,), output_token_ids=((1, 2), (1,)), cut_off=("no", "positions")
    )
    found = spans_of(
        [STARTED, finished("planner", "a", "b", segment_bytes=(70, 80)), turn, answered("a"), answered("b"), RunEnded()]
    )
    planners, judgers = found["invoke_agent planner"], found["invoke_agent judger"]
    assert [one.attributes["gen_ai.usage.output_tokens"] for one in judgers] == [2, 1]
    assert [one.attributes["gen_ai.response.finish_reasons"] for one in judgers] == [("stop",), ("length",)]
    assert [one.attributes["latentmas.memory.bytes"] for one in planners] == [70, 80]
    assert "gen_ai.usage.output_tokens" not in planners[0].attributes
    assert judgers[0].attributes["gen_ai.request.temperature"] == 0.5
    assert judgers[0].attributes["latentmas.phase.think.seconds"] == pytest.approx(1.0)
    for planner, judger in zip(planners, judgers, strict=True):
        (link,) = judger.links
        assert link.context == planner.get_span_context()
        assert dict(link.attributes) == {
            "latentmas.hand_over.source": "planner",
            "latentmas.hand_over.bytes": 700,
            "latentmas.hand_over.moved_bytes": 600,
            "latentmas.hand_over.transport": "tcp",
            "latentmas.hand_over.link": "cross_node",
            "latentmas.hand_over.codec": "int8",
            "latentmas.hand_over.seconds": 0.25,
            "latentmas.hand_over.exposed_seconds": 0.0,
        }
    (run,) = found["run pair"]
    assert run.attributes["latentmas.run.answered"] == 2
    assert all(one.status.is_ok for spans in found.values() for one in spans)


def test_other_clocks_are_corrected_like_those_of_the_timeline() -> None:
    found = spans_of([STARTED, finished("planner", "a", ahead=100.0)])
    (planner,) = found["invoke_agent planner"]
    assert planner.start_time / 1e9 == pytest.approx(10.0, abs=0.11)  # the bounds of a turn that waited 0.1 s


def test_what_was_lost_or_failed_has_the_status_of_an_error() -> None:
    place = TurnPlace("planner 0", ("n1",), 10.0)
    lost = TurnRepeated(agent="planner", reason="its actor died", question_ids=("a",), place=place)
    failure = QuestionFailed(failure=Failure(id="b", agent="judger", error="no memory at http://me:secret@host/x"))
    gone = ReplicaLost(("planner",), ("n1",), "it died", "planner 0", at=11.0)
    failing = finished("judger", "a", at=14.0, failed={"a": "no"})
    found = spans_of([STARTED, gone, NodeJoined("n2"), lost, finished("planner", "a"), failing, failure, RunEnded()])
    first, again = found["invoke_agent planner"]
    assert (first.attributes["error.type"], first.status.description) == ("turn_lost", "its actor died")
    assert first.start_time == 10.0 * 1e9
    assert again.status.is_ok
    assert found["invoke_agent judger"][0].status.description == "no"
    ends = {one.attributes["latentmas.question.id"]: one for one in found["invoke_workflow pair"]}
    assert ends["b"].status.description == "judger: no memory at http://me:***@host/x"
    assert ends["a"].attributes["error.type"] == "run_ended"
    (run,) = found["run pair"]
    assert [event.name for event in run.events] == ["latentmas.replica_lost", "latentmas.node_joined"]
    assert run.events[0].timestamp == 11.0 * 1e9
    assert run.attributes["latentmas.run.failed"] == 1


@pytest.mark.parametrize("kind", get_args(ClusterEvent), ids=lambda kind: kind.__name__)
def test_every_event_of_the_cluster_is_an_event_of_the_run(kind: type[ClusterEvent]) -> None:
    values = {"agents": ("planner",), "nodes": ("n1",), "replica": "planner 0", "node": "n1", "reason": "it was silent"}
    event = kind(**{one.name: values[one.name] for one in fields(kind) if one.name in values})
    (run,) = spans_of([STARTED, event, RunEnded()])["run pair"]
    (found,) = run.events
    row = row_of_event(event, 0.0)
    assert row is not None
    assert found.name == f"latentmas.{row['event']}"
    assert set(found.attributes) == {f"latentmas.{one.name}" for one in fields(kind) if one.name in values}


def test_a_question_that_is_answered_before_its_turn_ends_has_that_turn() -> None:
    """Where every question is written for itself, the others of its turn are still being written."""
    turn = finished("judger", "a", reads=(READ,), output_token_ids=((1,),))
    found = spans_of([STARTED, finished("planner", "a"), answered("a"), turn, finished("critic", "a"), RunEnded()])
    (question,) = found["invoke_workflow pair"]
    assert question.status.is_ok
    (judger,) = found["invoke_agent judger"]
    assert judger.parent == question.get_span_context() or judger.parent.span_id == question.get_span_context().span_id
    assert len(judger.links) == 1
    assert "invoke_agent critic" not in found  # it came when the question was complete


def test_a_caller_with_a_span_is_the_parent() -> None:
    caller = TracerProvider(shutdown_on_exit=False).get_tracer("caller").start_span("request")
    found = spans_of([STARTED, finished("planner", "a"), RunEnded()], parent=trace.set_span_in_context(caller))
    for name in ("run pair", "invoke_workflow pair"):
        (one,) = found[name]
        assert one.parent.span_id == caller.get_span_context().span_id


def test_an_error_within_makes_no_difference_to_the_run(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def start_span(self, *_: Any, **__: Any) -> Any:
            raise RuntimeError("no")

    broken: Any = Broken()
    observer = RunSpans(broken, FACTS)
    with caplog.at_level(logging.WARNING):
        for event in (STARTED, finished("planner", "a"), RunEnded()):
            observer.on_event(event)
    assert caplog.messages == ["the run has no spans from here on: RuntimeError: no"]


def _deaf() -> tuple[socket.socket, str]:
    """An endpoint that takes connections and never answers."""
    listener = socket.create_server(("127.0.0.1", 0))
    return listener, f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("endpoint", ["refuses", "deaf", "fails", "no address"])
def test_an_endpoint_that_does_not_work_costs_one_line(
    endpoint: str, collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(export, "CLOSE_SECONDS", 0.1)
    listener, deaf = _deaf()
    collector.status = 400
    with listener:
        closed = socket.create_server(("127.0.0.1", 0))
        refusing = f"http://127.0.0.1:{closed.getsockname()[1]}"
        closed.close()
        urls = {"refuses": refusing, "deaf": deaf, "fails": collector.url, "no address": "nonsense"}
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", urls[endpoint])
        fields = ["--latent-steps", "2", "--max-new-tokens", "2", "--runtime", "local"]
        assert main(["eval", "--task", "chain", "--limit", "1", "--otel", *fields]) == 0
    (line,) = [one.getMessage() for one in caplog.records if one.name.startswith("latentmas_ray")]
    assert " OpenTelemetry spans were dropped" in line
    assert line.split()[0] == line.split()[2]  # all of them
    (ours,) = logging.getLogger("opentelemetry").handlers  # what the SDK says goes nowhere unless logging was set up
    assert isinstance(ours, logging.NullHandler)


def test_a_later_call_is_exported_too(collector: Collector) -> None:
    """`close` ends the thread that exports, and may be called twice."""
    mas = LatentMAS("tiny", otel=True, **FAST)
    for _ in range(2):
        mas.ask(SECRET)
        mas.close()
        mas.close()
    assert len(collector.named("invoke_workflow sequential")) == 2
    assert not any("Otel" in one.name or one.name == "last spans" for one in threading.enumerate())


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_leaves_its_parent_s_spans_to_it(
    collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    mas = LatentMAS("tiny", otel=True, **FAST)
    mas.ask(SECRET)  # its spans are delivered some seconds later, or when it is closed
    caplog.clear()
    if (child := os.fork()) == 0:
        mas._setup.spans.close()
        os._exit(len(caplog.records))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    mas.close()
    assert len(collector.named("invoke_workflow sequential")) == 1


def test_spans_arrive_though_no_thread_starts_any_more(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when an interpreter ends, from Python 3.12 on, before its `LatentMAS` was closed."""

    class NoThread(threading.Thread):
        def start(self) -> None:
            raise RuntimeError("can't create new thread at interpreter shutdown")

    mas = LatentMAS("tiny", otel=True, **FAST)
    mas.ask(SECRET)
    monkeypatch.setattr(export, "threading", SimpleNamespace(**{**vars(threading), "Thread": NoThread}))
    mas.close()
    assert collector.named("invoke_workflow sequential")


def test_without_the_flag_nothing_is_exported(collector: Collector) -> None:
    with LatentMAS("tiny", **FAST) as mas:
        mas.ask(SECRET)
    assert collector.requests == []


def test_a_missing_extra_is_told(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    for name in [name for name in sys.modules if name.startswith("latentmas_ray.runs.otel")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    assert main(["eval", "--task", "chain", "--limit", "1", "--runtime", "local", "--otel"]) == 2
    err = capfd.readouterr().err
    assert "pip install 'latentmas-ray[otel]'" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "it must be http/protobuf or grpc"),
        (CONTENT, "perhaps", "it must be true, false"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "7", "they must fit together"),
    ],
)
def test_variables_that_make_no_sense_are_told(
    name: str, value: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=told):
        LatentMAS("tiny", otel=True, **FAST)  # before a model is loaded


def test_grpc_is_taken_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", None)
    with pytest.raises(ConfigError, match="opentelemetry-exporter-otlp-proto-grpc"):
        LatentMAS("tiny", otel=True)
