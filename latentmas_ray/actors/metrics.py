"""A run's metrics, exported through Ray: its nodes offer them to Prometheus with the prefix `ray_`."""

from collections.abc import Mapping

from ray.util.metrics import Counter, Gauge

from latentmas_ray.scheduler.metrics import METRICS, Metric


class RayMetrics:
    """Records metrics in this process, which must be connected to Ray. Without Ray's `default` extra they are not
    collected, and recording has no effect."""

    def __init__(self) -> None:
        self._counters = {m.name: Counter(m.name, m.description, m.tags) for m in METRICS if m.kind == "counter"}
        self._gauges = {m.name: Gauge(m.name, m.description, m.tags) for m in METRICS if m.kind == "gauge"}

    def record(self, metric: Metric, value: float, tags: Mapping[str, str]) -> None:
        """Increase a counter by `value` (above 0), or set a gauge to `value`."""
        if metric.kind == "counter":
            self._counters[metric.name].inc(value, dict(tags))
        else:
            self._gauges[metric.name].set(value, dict(tags))
