"""Turns the arguments of `LatentMAS` into a topology, a model, a runtime, calls and evaluations."""

import warnings
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from typing import TYPE_CHECKING, Any

from latentmas_ray import tasks
from latentmas_ray.config import (
    DEFAULT_LATENT_STEPS,
    MemoryName,
    RunConfig,
    RunSetting,
    check_drivers,
    current_fields,
    least_by_agent,
    make_config,
    most_by_agent,
    replicas_by_agent,
    warn_of_unused,
)
from latentmas_ray.engine.turn import GivenMemory
from latentmas_ray.errors import ConfigError, ThoughtsAloneWarning
from latentmas_ray.placement import WHOLE_CLUSTER
from latentmas_ray.placement.strategies import EQUAL_REPLICAS
from latentmas_ray.runs.controls.names import check_controls
from latentmas_ray.runs.decisions.decide import DecisionSettings
from latentmas_ray.runs.run_events import Observer, Observers
from latentmas_ray.scheduler.batch import Batch
from latentmas_ray.scheduler.protocol import Runtime
from latentmas_ray.scheduler.run import Result, RunRequest
from latentmas_ray.system.auto_layout import check_layout
from latentmas_ray.system.call import Call, check_is_memory, check_returns_memory, given_memory, plan_call, settings_of
from latentmas_ray.system.controls import ControlsEvaluation
from latentmas_ray.system.deciding import check_votes, decision_of, pinned_accuracies
from latentmas_ray.system.drivers.drivers import Drivers
from latentmas_ray.system.engines import check_engines
from latentmas_ray.system.evaluation import Evaluation
from latentmas_ray.system.live_runtime import LiveRuntime
from latentmas_ray.system.make_runtime import make_metrics, make_runtime
from latentmas_ray.system.memory_folder import MemoryFolder
from latentmas_ray.system.settings.arguments import check_arguments, given_model
from latentmas_ray.system.span_calls import SpanCalls
from latentmas_ray.system.team.positions import check_steps_fit
from latentmas_ray.system.team.run_models import RunModels, team_of
from latentmas_ray.system.team.states import check_states
from latentmas_ray.system.team.windows import check_windows
from latentmas_ray.tasks import check_graders, mismatch_memory
from latentmas_ray.tasks.question import Question
from latentmas_ray.tasks.trained import warn_of_untrained
from latentmas_ray.topology import (
    BUILTIN,
    AgentModel,
    RenderedPrompts,
    Topology,
    apply_control,
    apply_hints,
    apply_method,
    ask_with_hints,
    builtin_for,
    corrupt_one,
    digest_topology,
    dump_topology,
    handing_over_thoughts_alone,
    load_topology,
    own_models,
)
from latentmas_ray.transport.choose import DeviceLayout, choose

if TYPE_CHECKING:
    from latentmas_ray.memory import Memory
    from latentmas_ray.models.chat import ChatTokenizer

QuestionLike = str | Mapping[str, Any] | Question


class Setup:
    """The parts of a `LatentMAS`, and the runtime that they share. Thread-safe: nothing changes but the runtime."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        topology: str | Topology | None,
        observer: Observer | None,
        fields: Mapping[str, Any],
    ) -> None:
        """The arguments of `LatentMAS`. Raises InputError kinds; nothing is started."""
        check_arguments(model, topology, observer)
        given = given_model(model, tokenizer)
        values: dict[str, Any] = {}
        if isinstance(model, RunConfig):
            values = model.model_dump()
        elif model is not None:
            values["model"] = model if given is None else given.name
        self._own_topology = topology if isinstance(topology, Topology) else None
        if topology is not None:
            values["topology"] = topology if isinstance(topology, str) else topology.name
        fields = current_fields(fields)
        self.config = self._with_models(make_config({**values, **fields}))
        self.topology = self.topology_for(self.config)
        set_before = model.model_fields_set if isinstance(model, RunConfig) else set()
        set_here = fields.keys() | ({"topology"} if isinstance(topology, str) else set())
        self._given = set_before | set_here
        self._warn_of_unused(self.config, self._given)
        check_engines(self.config, self.topology, has_name=given is None)
        decision_of(self.config, self.topology)
        self._check_transport()
        if self.config.save_memory is not None:
            check_returns_memory(self.config, self.topology)
            MemoryFolder.of(self.config.save_memory)
        tasks.check_task(self.config.task)  # before the model, which may be on the hub
        self._models = RunModels.of(self.config, self.topology, given)
        self._models.check(self.config, self.topology)
        self._check_models(self.config, self.topology)
        self._observer = observer
        self.spans = SpanCalls(self.config.otel)
        self.part = WHOLE_CLUSTER  # of the cluster, which the runtime uses
        self.drivers = Drivers(self.config, None if self._own_topology is None else dump_topology(self._own_topology))
        if given is not None and self.config.drivers > 1:
            expected = "the model must be a name or a folder, which other processes can load"
            raise ConfigError("drivers", self.config.drivers, expected)
        self._chats: dict[AgentModel, ChatTokenizer] = {}
        self._last_given: tuple[Memory, GivenMemory] | None = None
        self.live = LiveRuntime(
            lambda topology, num_batches: self.make_runtime(topology, num_batches),
            partial(make_metrics, self.config),
            self.config.memory_in_flight_bytes,
        )

    def make_runtime(
        self, topology: Topology, num_batches: int, config: RunConfig | None = None, **more: Any
    ) -> Runtime:
        """Return a runtime, not started, for this configuration or that of an evaluation; see
        `make_runtime.make_runtime`."""
        config = config or self.config
        return make_runtime(config, self._models.of_agents(config, topology), topology, num_batches, self.part, **more)

    def call(
        self,
        questions: Iterable[QuestionLike],
        *,
        memory: "Memory | None" = None,
        observer: Observer | None = None,
        **more: Any,
    ) -> Call:
        """Return a call, see `plan_call`, which gets `more`; `observer` gets its events, too. Raises its errors, and
        TaskError for malformed questions."""
        if self.config.abstractions is not None:
            expected = "hints are for an evaluation (evaluate); leave it out to ask single questions"
            raise ConfigError("abstractions", self.config.abstractions, expected)
        if memory is not None:
            check_is_memory(memory)
        checked = self._controlled(tasks.questions_from(questions), self.config.memory, self.topology)
        given = None if memory is None else self._given_of(memory)
        observers = Observers(observer, self._observer, self.spans.observer(self.config, self.topology, checked))
        return plan_call(self.config, self.topology, checked, observer=observers, memory=memory, given=given, **more)

    @property
    def answers_once(self) -> bool:
        """Whether a question has one answer, of one agent."""
        return len(self.topology.answering_agents) * self.config.samples == 1

    def chat_of(self, agent: str) -> "ChatTokenizer":
        """Return the tokenizer of an agent's model, which is loaded once. Raises ModelError."""
        one = self._models.team.by_agent[agent]
        if one not in self._chats:
            self._chats[one] = self._models.chat(one)
        return self._chats[one]

    def call_with(
        self, changes: Mapping[str, Any], questions: Sequence[Question], *, observer: Observer | None, **more: Any
    ) -> Call:
        """Return a call with `changes` to the configuration, those of `CallSettings`, where nothing else sets `memory`;
        `plan_call` gets `more`, but for `requests`: by question, the spans of those that have asked it. Raises
        InputError kinds."""
        config = make_config({**self.config.model_dump(), **changes}) if changes else self.config
        topology = apply_control(self.topology, config.memory) if "memory" in changes else self.topology
        self._check_models(config, topology)
        checked = self._controlled(questions, config.memory, topology)
        spans = self.spans.observer(config, topology, checked, more.pop("requests", None))
        observers = Observers(observer, self._observer, spans)
        return plan_call(config, topology, checked, observer=observers, **more)

    def _given_of(self, memory: "Memory") -> GivenMemory:
        """Return the same object for the same memory again, so that a runtime sends it once."""
        last = self._last_given
        if last is None or last[0] is not memory:
            last = self._last_given = (memory, given_memory(memory))
        return last[1]

    def evaluation(self, changes: Mapping[str, Any], own: Sequence[Question] | None = None) -> Evaluation:
        """Return the evaluation of the configured task, with `changes` to the configuration; of its `own` questions,
        if they are given. Raises InputError kinds."""
        config = make_config({**self.config.model_dump(), **changes}) if changes else self.config
        topology = self.topology_for(config)
        self._warn_of_unused(config, changes.keys() - {"task"})
        limits = self._check_models(config, topology)
        asked = tasks.load_questions(config.task, config.limit) if own is None else own
        return self._evaluation(config, topology, asked, limits, is_changed=bool(changes))

    def controls(
        self, changes: Mapping[str, Any], names: Sequence[MemoryName], on_control: Callable[[MemoryName], None]
    ) -> ControlsEvaluation:
        """Return the evaluation under these memory controls, otherwise as `evaluation`. Raises InputError kinds."""
        config = make_config({**self.config.model_dump(), **changes})
        check_controls(names, config)
        topology = self.topology_for(config)
        self._warn_of_unused(config, changes.keys() - {"task"})
        limits = self._check_models(config, topology)
        questions = tasks.load_questions(config.task, config.limit)
        evaluations = {}
        for name in names:
            own = config.model_copy(update={"memory": name})
            controlled = apply_control(topology, name)
            self._warn_of_thoughts_alone(config, controlled, changes.keys(), stack_level=4)
            if config.save_memory is not None:
                check_returns_memory(own, controlled)
            evaluations[name] = self._evaluation(own, controlled, questions, limits)
        resolved = config.resolved(tasks.task_max_new_tokens(questions))
        return ControlsEvaluation(resolved, evaluations, lambda one: check_steps_fit(one, topology, limits), on_control)

    def _evaluation(
        self,
        config: RunConfig,
        topology: Topology,
        asked: Sequence[Question],
        limits: Mapping[str, int | None],
        *,
        is_changed: bool = False,
    ) -> Evaluation:
        """Return the evaluation of these questions under the configured control; `topology` is as that changes it."""
        questions = self._asked(config, topology, asked)
        prompts = RenderedPrompts.of(topology, questions)
        check_graders(questions, unsafe_programs=config.unsafe_programs)
        decision = decision_of(config, topology)
        if decision.votes:
            check_votes(questions)
        for one in team_of(config, topology).models:
            warn_of_untrained(one.name, questions)
        # A searched layout is one for its task, and a former driver's actors are those of its folder.
        own_runtime = partial(self.make_runtime, config=config) if is_changed else None
        is_divided = config.drivers > 1 and config.runtime == "ray"
        return Evaluation(
            config.resolved(tasks.task_max_new_tokens(questions)),
            questions,
            check=lambda one: check_steps_fit(one, topology, limits),
            pinned=self._pinned(topology) | pinned_accuracies(decision),
            topology=self._copied_topology(config),
            start=partial(self.drivers.start, config)
            if is_divided
            else partial(self.live.start, topology, make_runtime=own_runtime),
            run=self._run_divided if is_divided else partial(self._run_batches, topology, prompts, decision),
            decide=decision,
            observe=Observers(self._observer).on_event,
        )

    def _check_models(self, config: RunConfig, topology: Topology) -> Mapping[str, int | None]:
        """Return the positions of each agent's model. Raises ConfigError, TopologyError and ModelError for a run that
        the models cannot do."""
        models = self._models.of_agents(config, topology)
        limits = models.positions()
        check_steps_fit(config, topology, limits)
        check_states(config, topology, models.with_states())
        check_windows(config, topology, models)
        return limits

    def topology_for(self, config: RunConfig) -> Topology:
        """Return the topology that runs: the configured one, or the task's own one of that name, after method and
        control.

        Raises ConfigError for an unknown agent in `models` or `replicas`, for replicas that the placement excludes, and
        for unknown hardware.
        """
        topology = self._configured_topology(config)
        own_models(topology, config.model, config.models)
        topology = apply_method(topology, config.method, single=builtin_for(config.task, "single"))
        topology = apply_control(apply_hints(topology, config), config.memory)
        check_layout(config, topology)
        if config.replicas == "auto":
            return topology
        names = [agent.name for agent in topology.agents]
        if config.runtime == "ray":
            check_drivers(config.replicas, config.drivers, names)
        counts = replicas_by_agent(config.replicas, names)
        least_by_agent(config.min_replicas, counts)
        most_by_agent(config.max_replicas, counts, is_colocated=config.placement == "colocate")
        if config.placement == "colocate" and len(set(counts.values())) > 1:
            raise ConfigError("replicas", ",".join(f"{name}={count}" for name, count in counts.items()), EQUAL_REPLICAS)
        return topology

    def _with_models(self, config: RunConfig) -> RunConfig:
        """Return the configuration with the models of agents that the topology names, too. Raises ConfigError."""
        return config.model_copy(
            update={"models": own_models(self._configured_topology(config), config.model, config.models)}
        )

    def _configured_topology(self, config: RunConfig) -> Topology:
        """Return the configured topology, or the task's own one of that name. Raises TopologyError."""
        return self._own_topology or load_topology(builtin_for(config.task, config.topology))

    def _copied_topology(self, config: RunConfig) -> str | None:
        """Return the text of the configured topology; None for a built-in one, which needs no copy."""
        is_builtin = self._own_topology is None and builtin_for(config.task, config.topology) in BUILTIN
        return None if is_builtin else dump_topology(self._configured_topology(config))

    def _warn_of_unused(self, config: RunConfig, given: AbstractSet[str]) -> None:
        topology = self._configured_topology(config)
        steps = tuple(agent.latent_steps for agent in topology.agents if agent.thinks == "latent")
        engines = tuple(agent.engine for agent in self.topology_for(config).agents if agent.thinks == "text")
        shares = tuple(agent.keep for agent in topology.agents if agent.thinks == "latent")
        setting = RunSetting(
            config=config,
            num_agents=len(topology.agents),
            own_steps=steps,
            own_shares=shares,
            own_engines=engines,
            several_answer=len(self.topology_for(config).answering_agents) > 1,
        )
        warn_of_unused(setting, given)
        self._warn_of_thoughts_alone(config, self.topology_for(config), given)

    def _warn_of_thoughts_alone(
        self, config: RunConfig, topology: Topology, given: AbstractSet[str], *, stack_level: int = 5
    ) -> None:
        """Warn, at the line of the caller of `LatentMAS`, of agents that hand over no more than the default."""
        if config.latent_steps != DEFAULT_LATENT_STEPS or "latent_steps" in self._given | given:
            return
        if agents := handing_over_thoughts_alone(topology):
            warnings.warn(ThoughtsAloneWarning(agents, config.latent_steps), stacklevel=stack_level)

    def _run_batches(
        self,
        topology: Topology,
        prompts: RenderedPrompts,
        decision: DecisionSettings,
        config: RunConfig,
        questions: Sequence[Question],
        batches: Sequence[Batch],
        recorder: Observer | None,
    ) -> Generator[Result, None, None]:
        """Yield the results of an evaluation; questions that are in no batch have an answer already. `recorder`
        observes it too."""
        num_open = sum(len(batch.open_questions) for batch in batches)
        request = RunRequest(
            topology=topology,
            settings=settings_of(config, questions, prompts, decision),
            batches=batches,
            observer=Observers(recorder, self._observer, self.spans.observer(config, topology, questions)),
            num_done=len(questions) - num_open,
            keeps_memory=config.save_memory is not None,
            team=team_of(config, topology),
        )
        return self.live.run(request)

    def _run_divided(
        self, config: RunConfig, questions: Sequence[Question], batches: Sequence[Batch], recorder: Observer | None
    ) -> Generator[Result, None, None]:
        """Like `_run_batches`, by several drivers."""
        return self.drivers.run(config, questions, batches, Observers(recorder, self._observer))

    def _pinned(self, topology: Topology) -> dict[str, str]:
        """Return the facts, besides the configuration, that a resumed run must share with the first."""
        translation = self._models.of_agents(self.config, topology).pinned_translation(topology)
        pinned = {"topology_digest": digest_topology(topology), **translation}
        # The name of a model object does not identify its weights.
        model = self._models.model
        return pinned if isinstance(model, str) else {**pinned, "weights_revision": model.weights_revision}

    def _asked(self, config: RunConfig, topology: Topology, questions: Sequence[Question]) -> list[Question]:
        """Return the questions of an evaluation as the agents see them: with hints, one for each hint of each. Raises
        TaskError, and ConfigError for hints that cannot be."""
        if config.abstractions is None:
            return self._controlled(questions, config.memory, topology)
        return ask_with_hints(questions, self._configured_topology(config), topology, config)

    def _controlled(self, questions: Sequence[Question], memory: MemoryName, topology: Topology) -> list[Question]:
        """Return the questions as the agents see them under a control. Raises TaskError."""
        if memory == "deranged":
            return mismatch_memory(questions)
        return corrupt_one(topology, questions) if memory == "corrupted" else [*questions]

    def _check_transport(self) -> None:
        """Raise ConfigError for a transport that no placement of the actors allows."""
        config = self.config
        if config.runtime == "local" or config.placement == "colocate":
            choose(config.transport, DeviceLayout(same_process=True), config.codec)
        elif config.transport == "loopback":
            raise ConfigError(
                "transport",
                "loopback",
                "loopback stays within one process; use auto, or placement colocate or runtime local",
            )
