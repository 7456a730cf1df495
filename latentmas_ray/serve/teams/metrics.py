"""Metrics in the form of Prometheus: of requests, and of the turns behind them."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from latentmas_ray.scheduler.metrics import METRICS, Metric, MetricSink

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class TurnMetrics:
    """Keeps the metrics of runs (`scheduler.metrics`) in a registry, and passes them on. Thread-safe."""

    def __init__(self, registry: CollectorRegistry, then: MetricSink | None = None) -> None:
        self._then = then
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        for one in METRICS:
            if one.kind == "counter":
                self._counters[one.name] = Counter(one.name, one.description, one.tags, registry=registry)
            else:
                self._gauges[one.name] = Gauge(one.name, one.description, one.tags, registry=registry)

    def record(self, metric: Metric, value: float, tags: Mapping[str, str]) -> None:
        """Add `value` to a counter, or set a gauge to it."""
        labels = tuple(tags[name] for name in metric.tags)
        if metric.kind == "counter":
            counter = self._counters[metric.name]
            (counter.labels(*labels) if labels else counter).inc(value)
        else:
            gauge = self._gauges[metric.name]
            (gauge.labels(*labels) if labels else gauge).set(value)
        if self._then is not None:
            self._then.record(metric, value, tags)


class ServeMetrics:
    """The metrics of one endpoint."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "latentmas_serve_requests_total",
            "requests to a model that are over; status: of the response, 499 if the client has left",
            ("model", "status"),
            registry=self.registry,
        )
        self._first = self._histogram(
            "latentmas_serve_first_token_seconds", "from the request to the first text of a stream"
        )
        self._whole = self._histogram("latentmas_serve_request_seconds", "from the request to its last text")
        self.waiting = Gauge(
            "latentmas_serve_questions_waiting", "questions that no agent works on yet", registry=self.registry
        )
        self.running = Gauge(
            "latentmas_serve_questions_running", "questions that agents work on", registry=self.registry
        )

    def count(self, model: str, status: int, seconds: float) -> None:
        """Count a request that is over."""
        self._requests.labels(model, str(status)).inc()
        if status == 200:
            self._whole.labels(model).observe(seconds)

    def observe_first(self, model: str, seconds: float) -> None:
        """Note the time to the first text of a stream."""
        self._first.labels(model).observe(seconds)

    def text(self) -> bytes:
        """Return all metrics as Prometheus reads them."""
        return generate_latest(self.registry)

    def _histogram(self, name: str, description: str) -> Histogram:
        return Histogram(name, description, ("model",), buckets=_SECONDS, registry=self.registry)
