"""OpenTelemetry spans of runs, exported by OTLP. Nothing here is imported unless a run asks for it (`--otel`)."""

from latentmas_ray.runs.otel.attributes import SpanFacts
from latentmas_ray.runs.otel.export import SpanExport
from latentmas_ray.runs.otel.request_spans import RequestFacts, RequestSpan

__all__ = ["RequestFacts", "RequestSpan", "SpanExport", "SpanFacts"]
