"""Requests to an endpoint as OpenTelemetry spans, as a collector gets them."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from latentmas_ray.serve.tracing import RequestSpans
from tests.cases.collector import Collector, ReceivedSpan, running_collector
from tests.cases.team_app import TeamApp

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
QUESTION = "Nadia has 5 beads. Then Nadia finds 3 more. How many beads has Nadia now?"
CHAT: dict[str, Any] = {
    "model": "latentmas/sequential",
    "messages": [{"role": "user", "content": QUESTION}],
    "temperature": 0,
}


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with running_collector(monkeypatch) as found:
        yield found


def below(collector: Collector, parent: ReceivedSpan) -> list[ReceivedSpan]:
    return [span for span in collector.spans if span.parent_id == parent.span_id]


def test_a_request_is_a_span_of_its_clients_trace_with_the_agents_below(collector: Collector) -> None:
    with TeamApp(otel=True) as served:
        workflow = served.teams.models[CHAT["model"]].topology.name

        async def both() -> None:
            headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-Id": "first"}
            first = served.request("POST", "/v1/chat/completions", CHAT, headers)
            second = served.request("POST", "/v1/chat/completions", {**CHAT, "stream": True})
            await asyncio.gather(first, second)

        served.run(both())
        served.ask("POST", "/v1/chat/completions", {**CHAT, "model": "none"})
        served.ask("GET", "/v1/secret-path")
        served.ask("GET", "/health")
    ours, other, unknown = sorted(
        collector.named("POST /v1/chat/completions"),
        key=lambda one: (one.attributes["http.response.status_code"], one.trace_id.hex() != TRACE),
    )
    assert (ours.trace_id.hex(), ours.parent_id.hex()) == (TRACE, PARENT)
    assert other.trace_id.hex() != TRACE
    assert not other.parent_id
    assert (unknown.attributes["http.response.status_code"], below(collector, unknown)) == (404, [])
    expected = {
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "url.path": "/v1/chat/completions",
        "http.response.status_code": 200,
        "gen_ai.request.model": "latentmas/sequential",
        "latentmas.request.id": "first",
    }
    assert ours.attributes == expected
    for request in (ours, other):
        (question,) = below(collector, request)
        assert (question.name, question.trace_id) == (f"invoke_workflow {workflow}", request.trace_id)
        agents = [f"invoke_agent {name}" for name in ("planner", "critic", "refiner", "judger")]
        assert [span.name for span in below(collector, question)] == agents
        assert request.begin <= question.begin + 0.001  # the clock of spans has milliseconds at least
    assert {span.name for span in collector.spans if span.parent_id == b""} >= {"GET", f"run {workflow}"}
    assert not any(QUESTION.encode() in content for content in collector.requests)


def test_without_otel_there_are_no_spans(collector: Collector) -> None:
    with TeamApp() as served:
        assert not any(one.cls is RequestSpans for one in served.app.user_middleware)
        assert served.ask("GET", "/v1/models").status_code == 200
    assert not collector.requests
