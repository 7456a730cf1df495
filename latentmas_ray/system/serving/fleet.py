"""One started runtime that serves several topologies and methods."""

from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from latentmas_ray.config import RunConfig
from latentmas_ray.config.choices import RUN_METHODS
from latentmas_ray.engine.timing.progress import TurnProgress
from latentmas_ray.errors import ConfigError, TopologyError
from latentmas_ray.runs.run_events import Observer
from latentmas_ray.scheduler.metrics import MetricSink
from latentmas_ray.scheduler.protocol import RuntimeInfo
from latentmas_ray.scheduler.run import Result, WithdrawnQuestions
from latentmas_ray.system.call import Call
from latentmas_ray.system.live_runtime import LiveRuntime
from latentmas_ray.system.make_runtime import make_metrics
from latentmas_ray.system.serving.call_settings import CallSettings
from latentmas_ray.system.serving.stand_ins import find_stand_ins
from latentmas_ray.system.setup import Setup
from latentmas_ray.tasks.question import Question
from latentmas_ray.topology import Topology

MakeSink = Callable[[MetricSink | None], MetricSink | None]
MOST_BATCHES = 1024  # for the number of actors that work at the same time


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
    ) -> None:
        """Check everything that can be checked without starting anything. `topologies` are served besides
        `config.topology`; the first one decides which actors there are. `make_sink` gets where metrics go anyway,
        if anywhere, and returns where they are to go.

        Raises ConfigError, TopologyError or ModelError.
        """
        self.models: dict[str, TeamVariant] = {}
        for topology in dict.fromkeys([config.topology, *topologies]):
            for method in ("latent", *(one for one in RUN_METHODS if one != "latent")):
                self._add(config, topology, method, observer)
        first = next(iter(self.models.values()))
        self._topology = first.topology
        variants = [(model.config, model.topology) for model in self.models.values()]
        stand_ins = find_stand_ins(variants[0], variants[1:])
        names = {agent.name for model in self.models.values() for agent in model.topology.agents}
        self._live = LiveRuntime(
            lambda topology, num_batches: first.setup.make_runtime(self._topology, MOST_BATCHES, stand_ins=stand_ins),
            lambda: make_sink(make_metrics(config)),
            config.memory_in_flight_bytes,
            agents=names,
        )

    def _add(self, config: RunConfig, topology: str, method: str, observer: Observer | None) -> None:
        changed = config.model_copy(update={"topology": topology, "method": method})
        if self.models:  # what does nothing is said once, of the first
            changed = RunConfig.model_construct(set(), **dict(changed))
        try:
            setup = Setup(changed, None, None, observer, {})
        except TopologyError:
            if method != "latent":
                raise
            return  # no agent of it is latent
        name = topology_name(topology)
        full = name if method == "latent" else f"{name}/{method}"
        if full in self.models:
            raise ConfigError("topologies", topology, f"another topology is called {name}, too; give it another name")
        self.models[full] = TeamVariant(full, setup)

    def start(self) -> RuntimeInfo:
        """Start the actors and load the models, unless they are there. Raises the errors of `Runtime.start`."""
        return self._live.start(self._topology, MOST_BATCHES)

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
    ) -> Call:
        """Return the call that answers these questions as one batch. `streamed` are the ids of those whose texts the
        observer gets as they are written, `stop` texts that end an answer. Raises InputError kinds for settings that
        the model cannot do."""
        if (settings.samples or 1) > 1 and len(model.topology.answering_agents) > 1:
            raise ConfigError("samples", settings.samples, "several agents answer, of which one answer is made: use 1")
        more = {"streamed": streamed, "stop": stop, "withdrawn": withdrawn, "warns": False}
        return model.setup.call_with(settings.changes(), questions, observer=observer, **more)

    async def arun(self, call: Call) -> AsyncGenerator[Result, None]:
        """Yield the results of a call; see `LiveRuntime.arun`."""
        async with aclosing(self._live.arun(call.request, call.check_memory)) as results:
            async for result in results:
                yield result

    def running_turns(self) -> list[TurnProgress]:
        """Return how far the turns are that run now; see `LiveRuntime.running_turns`."""
        return self._live.running_turns()

    def close(self) -> None:
        """Shut down the actors, and Ray if this fleet started it. Safe to call twice."""
        self._live.close()
        for model in self.models.values():
            model.setup.spans.close()


def topology_name(topology: str) -> str:
    """Return the name under which a topology is served: that of a file is its stem."""
    return topology.rpartition("/")[2].removesuffix(".yaml").removesuffix(".yml")
