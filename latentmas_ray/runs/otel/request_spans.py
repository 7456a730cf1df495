"""The span of one request that a server has received over HTTP, with the names of OpenTelemetry's HTTP conventions.

It belongs to the trace that the header `traceparent` names, if the client sent one; its questions' spans are its
children.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from latentmas_ray.runs.otel.attributes import ERROR_TYPE, MODEL

_LOG = logging.getLogger(__name__)
_PROPAGATOR = TraceContextTextMapPropagator()


@dataclass(frozen=True, kw_only=True)
class RequestFacts:
    """What is known of a request when it comes. `headers` are by their names in lower case; `route` is its path without
    what differs between requests, or empty."""

    method: str
    path: str
    route: str
    headers: Mapping[str, str]


class RequestSpan:
    """The span of one request. It never raises: telemetry ends no request."""

    def __init__(self, tracer: Tracer, request: RequestFacts) -> None:
        """Start it."""
        attributes: dict[str, AttributeValue] = {"http.request.method": request.method, "url.path": request.path}
        if request.route:
            attributes["http.route"] = request.route
        carrier = {name: request.headers[name] for name in ("traceparent", "tracestate") if name in request.headers}
        parent = _PROPAGATOR.extract(carrier, Context())  # one of another form counts as none
        self._span = tracer.start_span(
            f"{request.method} {request.route}".rstrip(), context=parent, kind=SpanKind.SERVER, attributes=attributes
        )
        self.context = trace.set_span_in_context(self._span, Context())

    def describe(self, *, model: str, cached_tokens: int) -> None:
        """Say what is asked, and how many tokens of its conversation were kept."""
        self._span.set_attribute(MODEL, model)
        if cached_tokens:
            self._span.set_attribute("latentmas.conversation.cached_tokens", cached_tokens)

    def end(self, status: int | None, request_id: str) -> None:
        """End it with the response's status; None if there was none, as the client had left."""
        try:
            if request_id:
                self._span.set_attribute("latentmas.request.id", request_id)
            if status is not None:
                self._span.set_attribute("http.response.status_code", status)
            if status is None or status >= 500:
                self._span.set_attribute(ERROR_TYPE, "client_left" if status is None else str(status))
                self._span.set_status(Status(StatusCode.ERROR))
            self._span.end()
        except Exception as error:  # noqa: BLE001  processors of the SDK can be anybody's
            _LOG.warning("a request has no span: %s: %s", type(error).__name__, error)
