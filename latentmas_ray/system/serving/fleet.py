"""One started runtime that serves several topologies and methods."""

from collections.abc import AsyncGenerator, Collection, Generator, Mapping, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from latentmas_ray.config import RunConfig
from latentmas_ray.engine.timing.progress import TurnProgress
from latentmas_ray.engine.turn import GivenMemory
from latentmas_ray.errors import ConfigError, TopologyError
from latentmas_ray.runs.results import Answer
from latentmas_ray.runs.run_events import Observer
from latentmas_ray.scheduler.protocol import RuntimeInfo
from latentmas_ray.scheduler.run import Result, WithdrawnQuestions
from latentmas_ray.system.call import Call
from latentmas_ray.system.deciding import decide_alone
from latentmas_ray.system.serving.call_settings import CallSettings
from latentmas_ray.system.serving.shared_actors import MakeSink, SharedActors
from latentmas_ray.system.serving.variants import ServedMethod, check_prompts, served_methods, variant_config
from latentmas_ray.system.setup import Setup
from latentmas_ray.system.span_calls import SpanCalls
from latentmas_ray.tasks.question import Question
from latentmas_ray.topology import Topology, builtin_for, load_topology

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

    @property
    def answers_once(self) -> bool:
        """Whether an answer is what one agent writes, and not made of several answers."""
        is_decided = self.config.decides is not None and self.config.samples > 1
        return len(self.topology.answering_agents) == 1 and not is_decided


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
            self._add_topology(config, topology, observer)
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

    def _add_topology(self, config: RunConfig, name: str, observer: Observer | None) -> None:
        """Add the models of one topology. Its file is read now: what it is later concerns nothing before the next
        fleet."""
        is_first = name == config.topology
        try:
            topology = load_topology(builtin_for(config.task, name))
        except TopologyError as error:
            if error.field == "topology" and not is_first:
                raise ConfigError("topologies", error.value, error.expected) from error
            raise
        for method in served_methods(topology):
            has_actors = is_first and not self.models
            changed = variant_config(config, name, topology, method, has_actors=has_actors, is_first=is_first)
            if self.models or self._spans is not None:  # what does nothing is said once, of the first
                changed = RunConfig.model_construct(set(), **dict(changed))
            own = topology if is_topology_file(name) else None
            self._add(method, name, Setup(changed, None, own, observer, {}))

    def _add(self, method: ServedMethod, topology: str, setup: Setup) -> None:
        name = topology_name(topology)
        full = name if method == "latent" else f"{name}/{method}"
        if full in self.models:
            raise ConfigError("topologies", topology, f"another topology is called {name}, too; give it another name")
        check_prompts(setup.topology, full)
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
        num_answering, changes = len(model.topology.answering_agents), settings.changes()
        if (settings.samples or 1) > 1 and num_answering > 1:
            raise ConfigError("samples", settings.samples, "several agents answer, of which one answer is made: use 1")
        if settings.samples == num_answering == 1:  # the server's rule has nothing to decide
            changes |= {"decides": None, "decide_accuracies": None}
        more = {"streamed": streamed, "stop": stop, "withdrawn": withdrawn, "given": given, "warns": False}
        return model.setup.call_with(changes, questions, observer=observer, requests=requests, **more)

    def run(self, call: Call) -> Generator[Result, None, None]:
        """Yield the results of a call in the caller's thread; see `LiveRuntime.run`."""
        with closing(self._actors.live.run(call.request, call.check_memory)) as results:
            yield from results

    async def arun(self, call: Call) -> AsyncGenerator[Result, None]:
        """Yield the results of a call, see `LiveRuntime.arun`. Each question is decided for itself, as by
        `LatentMAS.ask`, whichever others are in its batch."""
        async with aclosing(self._actors.live.arun(call.request, call.check_memory)) as results:
            async for result in results:
                if isinstance(result, Answer):
                    result = decide_alone(result, call.questions, call.decision)
                yield result

    def writes_at_once(self) -> Mapping[str, int]:
        """Return how many questions each agent writes at the same time now; see `LiveRuntime.writes_at_once`."""
        return self._actors.live.writes_at_once()

    def text_actor_of(self, agent: str) -> str:
        """Return the agent whose actors write the texts of an agent of a model: itself, or its stand-in."""
        return self._actors.actor_of(agent, "text")

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
