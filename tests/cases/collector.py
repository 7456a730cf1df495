"""An OTLP collector in this process: it takes spans over HTTP as protobuf, and keeps them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span


@dataclass(frozen=True)
class ReceivedLink:
    """A link of a span."""

    span_id: bytes
    attributes: dict[str, Any]


@dataclass(frozen=True)
class ReceivedSpan:
    """A span as it has arrived. Times are in seconds."""

    name: str
    trace_id: bytes
    span_id: bytes
    parent_id: bytes
    begin: float
    end: float
    attributes: dict[str, Any]
    links: tuple[ReceivedLink, ...]
    events: tuple[tuple[str, dict[str, Any]], ...]
    error: str | None  # the description of its status, if that is an error


@dataclass
class Collector:
    """What has arrived so far. `status` is what it answers."""

    url: str = ""
    status: int = 200
    requests: list[bytes] = field(default_factory=list)
    services: set[str] = field(default_factory=set)
    paths: set[str] = field(default_factory=set)

    @property
    def spans(self) -> list[ReceivedSpan]:
        found = []
        for content in self.requests:
            request = ExportTraceServiceRequest.FromString(content)
            for resource in request.resource_spans:
                self.services.add(_values(resource.resource.attributes)["service.name"])
                found += [_received(span) for scope in resource.scope_spans for span in scope.spans]
        return found

    def named(self, name: str) -> list[ReceivedSpan]:
        return [span for span in self.spans if span.name == name]


@contextmanager
def running_collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector to which the standard variable points."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            collector.paths.add(self.path)
            if collector.status == 200:
                collector.requests.append(content)
            self.send_response(collector.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _received(span: Span) -> ReceivedSpan:
    return ReceivedSpan(
        name=span.name,
        trace_id=span.trace_id,
        span_id=span.span_id,
        parent_id=span.parent_span_id,
        begin=span.start_time_unix_nano / 1e9,
        end=span.end_time_unix_nano / 1e9,
        attributes=_values(span.attributes),
        links=tuple(ReceivedLink(link.span_id, _values(link.attributes)) for link in span.links),
        events=tuple((event.name, _values(event.attributes)) for event in span.events),
        error=span.status.message if span.status.code == span.status.STATUS_CODE_ERROR else None,
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {one.key: _value(one.value) for one in attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return [_value(one) for one in value.array_value.values] if kind == "array_value" else getattr(value, kind)
