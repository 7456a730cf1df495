"""OpenTelemetry spans of the calls of a `LatentMAS`, if its configuration asks for them."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from latentmas_ray.config import RunConfig
from latentmas_ray.env import captures_message_content, otlp_protocol
from latentmas_ray.errors import ConfigError
from latentmas_ray.runs.run_events import Observer
from latentmas_ray.scheduler.turns import DriverSettings
from latentmas_ray.tasks.question import Question
from latentmas_ray.topology import Topology

if TYPE_CHECKING:
    from latentmas_ray.runs.otel import RequestSpan, SpanExport

HOW_TO_INSTALL = "it takes OpenTelemetry: pip install 'latentmas-ray[otel]', or pip install '.[otel]' in a checkout"


class SpanCalls:
    """Makes the observers that export spans. Thread-safe."""

    def __init__(self, is_on: bool) -> None:
        """Raises ConfigError if OpenTelemetry is not installed, or a variable of it has a value that is none."""
        self._export: SpanExport | None = None
        self._with_content = False
        if is_on:
            protocol = otlp_protocol()
            self._with_content = captures_message_content()
            try:
                from latentmas_ray.runs.otel import SpanExport as Export  # here: a run without spans needs no extra

                self._export = Export(protocol)
            except ImportError as error:
                raise ConfigError("otel", True, HOW_TO_INSTALL) from error

    @property
    def is_on(self) -> bool:
        """Whether spans are exported."""
        return self._export is not None

    def start_request(self, method: str, path: str, route: str, headers: Mapping[str, str]) -> "RequestSpan | None":
        """Start the span of a request over HTTP, which belongs to the trace that its headers name; None without spans.
        `route` is the path without what differs between requests; empty for an unknown one."""
        if self._export is None:
            return None
        from latentmas_ray.runs.otel import RequestFacts

        return self._export.start_request(RequestFacts(method=method, path=path, route=route, headers=headers))

    def observer(
        self,
        config: RunConfig,
        topology: Topology,
        questions: Sequence[Question],
        requests: "Mapping[str, RequestSpan] | None" = None,
    ) -> Observer | None:
        """Return the observer of one run; None without spans. `requests` are, by question, those that have asked it.
        Raises ConfigError for values of variables that the SDK refuses."""
        if self._export is None:
            return None
        from latentmas_ray.runs.otel import SpanFacts

        texts = {question.id: question.question for question in questions} if self._with_content else {}
        facts = SpanFacts(
            workflow=topology.name,
            answering_agents=tuple(agent.name for agent in topology.answering_agents),
            model=config.model,
            models=config.models,
            method=config.method,
            sampling=DriverSettings.from_config(config).sampling,
            questions=texts,
        )
        parents = {name: request.context for name, request in (requests or {}).items()}
        return self._export.observer(facts, parents)

    def close(self) -> None:
        """Deliver what is left, within a few seconds, and warn if spans were dropped. Safe to call twice."""
        if self._export is not None:
            self._export.close()
