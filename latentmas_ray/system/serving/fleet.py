"""One started runtime that serves several topologies and methods."""

from collections.abc import AsyncGenerator, Collection, Generator, Mapping, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from latentmas_ray.config import RunConfig
from latentmas_ray.config.choices import RUN_METHODS
from latentmas_ray.engine.timing.progress import TurnProgress
from latentmas_ray.engine.turn import GivenMemory
from latentmas_ray.errors import ConfigError, TopologyError
from latentmas_ray.runs.run_events import Observer
from latentmas_ray.scheduler.protocol import RuntimeInfo
from latentmas_ray.scheduler.run import Result, WithdrawnQuestions
from latentmas_ray.system.call import Call
from latentmas_ray.system.serving.call_settings import CallSettings
from latentmas_ray.system.serving.shared_actors import MakeSink, SharedActors
from latentmas_ray.system.setup import Setup
from latentmas_ray.system.span_calls import SpanCalls
from latentmas_ray.tasks.question import Question
from latentmas_ray.topology import Topology, load_topology

if TYPE_CHECKING:
    from latentmas_ray.runs.otel import RequestSpan


@dataclass(frozen=True, eq=False)
class TeamVariant:
    """One topology with one method, which callers name."""

    name: str  # sequential, sequential/single, sequential/text
    setup: Setup

    @property
    def config(self) -> RunConfig:
        """Its configuration: the values that a caller does not set."""
        return self.setup.config

    @property
    def topology(self) -> Topology:
        """The agents that answer."""
        return self.setup.topology


class Fleet:
    """The actors of a configuration, and the models that they serve. Thread-safe."""

    def __init__(
        self,
        config: RunConfig,
        topologies: Sequence[str] = (),
        observer: Observer | None = None,
        *,
        make_sink: MakeSink = lambda sink: sink,
        before: "Fleet | None" = None,
    ) -> None:
        """Check everything that can be checked without starting anything. `topologies` are served besides
        `config.topology`; the first one decides which actors there are, unless those of the fleet `before` stay.
        `make_sink` gets where metrics go anyway, if anywhere, and returns where they are to go.

        Raises ConfigError, TopologyError or ModelError.
        """
        self.models: dict[str, TeamVariant] = {}
        self._arguments = config, observer
        self._spans = None if before is None else before.spans
        for topology in dict.fromkeys([config.topology, *topologies]):
            for method in ("latent", *(one for one in RUN_METHODS if one != "latent")):
                self._add(config, topology, method, observer)
        self._teams = [(model.config, model.topology) for model in self.models.values()]
        if before is None:
            self._actors = SharedActors(next(iter(self.models.values())).setup, config, make_sink)
        else:
            self._actors = before._actors
        self._stand_ins = self._actors.stand_ins_for(self._teams)

    def with_topologies(self, topologies: Sequence[str]) -> "Fleet":
        """Return another fleet on the same actors, which has to be started: it serves the topology of the
        configuration, read again, and these. Raises the errors of the constructor, and ConfigError for agents for which
        there are no actors; then nothing has changed."""
        config, observer = self._arguments
        return Fleet(config, topologies, observer, before=self)

    def _add(self, config: RunConfig, topology: str, method: str, observer: Observer | None) -> None:
        changed = config.model_copy(update={"topology": topology, "method": method})
        if self.models or self._spans is not None:  # what does nothing is said once, of the first
            changed = RunConfig.model_construct(set(), **dict(changed))
        # A file is read now: what it is later concerns nothing before the next fleet.
        own = load_topology(topology) if is_topology_file(topology) else None
        try:
            setup = Setup(changed, None, own, observer, {})
        except TopologyError as error:
            if method != "latent" and error.field == "topology" and topology != config.topology:
                raise ConfigError("topologies", error.value, error.expected) from error
            if method != "latent":
                raise
            return  # no agent of it is latent
        name = topology_name(topology)
        full = name if method == "latent" else f"{name}/{method}"
        if full in self.models:
            raise ConfigError("topologies", topology, f"another topology is called {name}, too; give it another name")
        if self._spans is None:
            self._spans = setup.spans
        setup.spans = self._spans  # one thread delivers those of all models
        self.models[full] = TeamVariant(full, setup)

    @property
    def spans(self) -> SpanCalls:
        """Where the spans of all models go."""
        assert self._spans is not None, "there is a model"
        return self._spans

    def start(self) -> RuntimeInfo:
        """Start the actors and load the models, unless they are there. Raises the errors of `Runtime.start`."""
        return self._actors.start(self._stand_ins, self._teams)

    def call(
        self,
        model: TeamVariant,
        settings: CallSettings,
        questions: Sequence[Question],
        observer: Observer | None = None,
        *,
        streamed: Collection[str] = (),
        stop: Sequence[str] = (),
        withdrawn: WithdrawnQuestions | None = None,
        given: GivenMemory | None = None,
        requests: "Mapping[str, RequestSpan] | None" = None,
    ) -> Call:
        """Return the call that answers these questions as one batch. `streamed` are the ids of those whose texts the
        observer gets as they are written, `stop` texts that end an answer; `given` is memory that all agents read
        first, `requests` are, by question, the spans of those that have asked it. Raises InputError kinds for settings
        that the model cannot do."""
        if (settings.samples or 1) > 1 and len(model.topology.answering_agents) > 1:
            raise ConfigError("samples", settings.samples, "several agents answer, of which one answer is made: use 1")
        more = {"streamed": streamed, "stop": stop, "withdrawn": withdrawn, "given": given, "warns": False}
        return model.setup.call_with(settings.changes(), questions, observer=observer, requests=requests, **more)

    def run(self, call: Call) -> Generator[Result, None, None]:
        """Yield the results of a call in the caller's thread; see `LiveRuntime.run`."""
        with closing(self._actors.live.run(call.request, call.check_memory)) as results:
            yield from results

    async def arun(self, call: Call) -> AsyncGenerator[Result, None]:
        """Yield the results of a call; see `LiveRuntime.arun`."""
        async with aclosing(self._actors.live.arun(call.request, call.check_memory)) as results:
            async for result in results:
                yield result

    def running_turns(self) -> list[TurnProgress]:
        """Return how far the turns are that run now; see `LiveRuntime.running_turns`."""
        return self._actors.live.running_turns()

    def close(self) -> None:
        """Shut down the actors, and Ray if this fleet started it. Safe to call twice."""
        self._actors.live.close()
        for model in self.models.values():
            model.setup.spans.close()


def is_topology_file(topology: str) -> bool:
    """Whether this is the path of a file, and not the name of a built-in topology."""
    return topology.lower().endswith((".yaml", ".yml"))


def topology_name(topology: str) -> str:
    """Return the name under which a topology is served: that of a file is its stem."""
    name = topology.rpartition("/")[2]
    return name.rpartition(".")[0] if is_topology_file(topology) else name
