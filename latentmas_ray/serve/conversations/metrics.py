"""Metrics of the conversations that are kept."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge


class ConversationMetrics:
    """Counts in a registry of Prometheus."""

    def __init__(
        self, registry: CollectorRegistry, *, number: Callable[[], float], num_bytes: Callable[[], float]
    ) -> None:
        """`number` and `num_bytes` tell what is kept now."""
        name = "latentmas_serve_conversation"
        Gauge(f"{name}s", "conversations that are kept", registry=registry).set_function(number)
        Gauge(f"{name}_bytes", "working memory and texts that are kept", registry=registry).set_function(num_bytes)
        self.hits = Counter(
            f"{name}_hits_total", "turns whose earlier messages were all in memory that was kept", registry=registry
        )
        self.losses = Counter(
            f"{name}_losses_total", "turns with earlier messages that were computed again", registry=registry
        )
        self.tokens = Counter(
            f"{name}_cached_tokens_total", "tokens that agents read instead of computing them", registry=registry
        )
        self._dropped = Counter(
            f"{name}_dropped_total",
            "conversations that are not kept any more; reason: age, bytes, number or deleted",
            ("reason",),
            registry=registry,
        )

    def count_dropped(self, reason: str) -> None:
        """Count a conversation that is dropped."""
        self._dropped.labels(reason).inc()
