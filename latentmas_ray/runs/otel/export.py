"""Exports spans by OTLP, in a thread of its own: an endpoint that is down delays no question.

The standard variables `OTEL_*` are read by the SDK: endpoint, headers, sampler, service name, sizes of the queue.
"""

import atexit
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

from opentelemetry.context import Context, get_current
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Tracer

from latentmas_ray.env import OtlpProtocol
from latentmas_ray.errors import ConfigError, first_line
from latentmas_ray.runs.otel.attributes import SpanFacts
from latentmas_ray.runs.otel.request_spans import RequestFacts, RequestSpan
from latentmas_ray.runs.otel.run_spans import RunSpans

CLOSE_SECONDS = 5.0  # that the last spans may take
_SERVICE = "latentmas"
_UNSET_SERVICE = "unknown_service"  # the SDK's value where no variable names the service
_LOG = logging.getLogger(__name__)
# The SDK warns of every request that fails. Where no handler was set up, the line at the end says it once.
logging.getLogger("opentelemetry").addHandler(logging.NullHandler())


class _Counted(SpanExporter):
    """Counts the spans that an exporter has delivered."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self.num_delivered = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        if result is SpanExportResult.SUCCESS:
            self.num_delivered += len(spans)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


class _Ended(SpanProcessor):
    """Counts the spans that have ended and are to be exported."""

    def __init__(self) -> None:
        self.num_ended = 0

    def on_end(self, span: ReadableSpan) -> None:
        context = span.get_span_context()
        self.num_ended += context is not None and context.trace_flags.sampled


class _Exporting:
    """A provider with its thread."""

    def __init__(self, make_exporter: Callable[[], SpanExporter]) -> None:
        """Raises ConfigError for values of variables that the SDK refuses."""
        self._ended = _Ended()
        try:
            self._counted = _Counted(make_exporter())
            processor = BatchSpanProcessor(self._counted)
        except (ValueError, OSError, RuntimeError, ImportError) as error:
            raise ConfigError("otel", "the variables OTEL_*", f"they must fit together: {first_line(error)}") from error
        self._provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
        self._provider.add_span_processor(self._ended)
        self._provider.add_span_processor(processor)
        self.tracer = self._provider.get_tracer("latentmas_ray", _own_version())
        self._process = os.getpid()
        self._is_closing = threading.Event()
        # Started now: from Python 3.12 on an interpreter that ends, which closes what was left open, starts none.
        self._delivering = threading.Thread(target=self._deliver_last, name="last spans", daemon=True)
        self._delivering.start()

    @property
    def is_ours(self) -> bool:
        """Whether it was started in this process: a fork has a copy of it without its threads."""
        return self._process == os.getpid()

    def close(self) -> tuple[int, int]:
        """Deliver what is left, for `CLOSE_SECONDS` at most. Returns how many spans were dropped, and of how many."""
        self._is_closing.set()
        self._delivering.join(CLOSE_SECONDS)
        if self._delivering.is_alive():
            self._counted.shutdown()  # ends its retries; the thread ends with its request
        num_ended = self._ended.num_ended
        return num_ended - self._counted.num_delivered, num_ended

    def _deliver_last(self) -> None:
        """Wait until all is closed, which the end of the process does at the latest, and deliver what is left."""
        self._is_closing.wait()
        self._provider.shutdown()


class SpanExport:
    """Where the spans of all runs of a `LatentMAS` go. Thread-safe."""

    def __init__(self, protocol: OtlpProtocol) -> None:
        """Raises ConfigError if the exporter of this protocol is not installed, or for values of variables that the SDK
        refuses: before a model is loaded."""
        self._protocol = protocol
        _Exporting(_exporter_of(protocol)).close()
        self._lock = threading.Lock()
        self._started: _Exporting | None = None

    def observer(self, facts: SpanFacts, parents: Mapping[str, Context] | None = None) -> RunSpans:
        """Return the observer of one run. The caller's span, if it has one, is the parent of its questions' spans; or
        each question has its own parent of `parents`, and the run has none.

        Raises ConfigError for values of variables that the SDK refuses."""
        return RunSpans(self._tracer(), facts, None if parents else get_current(), parents)

    def start_request(self, request: RequestFacts) -> RequestSpan:
        """Start the span of a request that a server has received. Raises ConfigError like `observer`."""
        return RequestSpan(self._tracer(), request)

    def _tracer(self) -> Tracer:
        with self._lock:
            if self._started is None or not self._started.is_ours:
                self._started = _Exporting(_exporter_of(self._protocol))
                atexit.register(self.close)
            return self._started.tracer

    def close(self) -> None:
        """Deliver what is left, for `CLOSE_SECONDS` at most, and warn if spans were dropped. Safe to call twice; a
        later run makes another one. A forked process leaves its parent's spans to the parent."""
        with self._lock:
            started, self._started = self._started, None
        if started is None or not started.is_ours:
            return
        atexit.unregister(self.close)
        num_dropped, num_ended = started.close()
        if num_dropped:
            _LOG.warning(
                "%d of %d OpenTelemetry spans were dropped: the endpoint did not take them "
                "(OTEL_EXPORTER_OTLP_ENDPOINT), or not as fast as they came (OTEL_BSP_MAX_QUEUE_SIZE)",
                num_dropped,
                num_ended,
            )


def _exporter_of(protocol: OtlpProtocol) -> type[SpanExporter]:
    """Return the exporter's class. Raises ConfigError if it is not installed."""
    if protocol == "http/protobuf":
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        return OTLPSpanExporter
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
    except ImportError as error:
        expected = "it takes pip install opentelemetry-exporter-otlp-proto-grpc; or leave it out for http/protobuf"
        raise ConfigError("OTEL_EXPORTER_OTLP_PROTOCOL", protocol, expected) from error
    return GrpcExporter


def _resource() -> Resource:
    resource = Resource.create()
    name = str(resource.attributes.get(SERVICE_NAME, ""))
    return resource.merge(Resource({SERVICE_NAME: _SERVICE})) if name.startswith(_UNSET_SERVICE) else resource


def _own_version() -> str | None:
    try:
        return version("latentmas-ray")
    except PackageNotFoundError:  # a checkout that is not installed
        return None
