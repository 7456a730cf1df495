"""A run's metrics by way of Ray, whose nodes offer them to Prometheus with `ray_` before each name."""

from collections.abc import Mapping

from ray.util.metrics import Counter, Gauge

from latentmas_ray.scheduler.metrics import METRICS, Metric


class RayMetrics:
    """Records in this process, which must be connected to Ray. Where Ray's own `default` extra is not installed
    nobody collects them, and recording does nothing."""

    def __init__(self) -> None:
        self._counters = {m.name: Counter(m.name, m.description, m.tags) for m in METRICS if m.kind == "counter"}
        self._gauges = {m.name: Gauge(m.name, m.description, m.tags) for m in METRICS if m.kind == "gauge"}

    def record(self, metric: Metric, value: float, tags: Mapping[str, str]) -> None:
        """A counter grows by `value` (above 0), a gauge becomes `value`."""
        if metric.kind == "counter":
            self._counters[metric.name].inc(value, dict(tags))
        else:
            self._gauges[metric.name].set(value, dict(tags))
