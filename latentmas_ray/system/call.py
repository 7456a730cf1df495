"""One call of `ask`, `map`, `as_completed` or `think`, checked before it runs."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from latentmas_ray import tasks
from latentmas_ray.config import RunConfig, describe_models
from latentmas_ray.engine.turn import GivenMemory
from latentmas_ray.errors import ConfigError, MemoryInputError, TopologyError
from latentmas_ray.runs.decisions.decide import DecisionSettings
from latentmas_ray.runs.run_events import Observer
from latentmas_ray.scheduler.batch import plan_batches
from latentmas_ray.scheduler.protocol import RuntimeInfo
from latentmas_ray.scheduler.run import RunRequest, WithdrawnQuestions
from latentmas_ray.scheduler.turns import DriverSettings, Goal
from latentmas_ray.system.deciding import check_votes, decision_of
from latentmas_ray.system.team.run_models import team_of
from latentmas_ray.tasks import check_graders
from latentmas_ray.tasks.question import Question
from latentmas_ray.tasks.trained import warn_of_untrained
from latentmas_ray.topology import RenderedPrompts, Team, Topology

if TYPE_CHECKING:
    from latentmas_ray.memory import Memory


@dataclass(frozen=True, kw_only=True)
class Call:
    """The questions of a call and its request to the scheduler."""

    questions: Sequence[Question]
    request: RunRequest
    decision: DecisionSettings = field(default_factory=DecisionSettings)
    check_memory: Callable[[RuntimeInfo], None] | None = None  # called once the runtime has started


def plan_call(
    config: RunConfig,
    topology: Topology,
    questions: Sequence[Question],
    *,
    observer: Observer | None,
    memory: "Memory | None" = None,
    given: GivenMemory | None = None,
    keep_memory: bool = False,
    thinks: bool = False,
    streamed: Collection[str] = (),
    stop: Sequence[str] = (),
    withdrawn: WithdrawnQuestions | None = None,
    warns: bool = True,
) -> Call:
    """Return the call that answers `questions` (from `memory`, if given), or with `thinks` returns their memory.

    `given` is `given_memory(memory)`, one object for all calls with the same memory. The observer gets
    the answers to the questions `streamed` as they are written; `stop` are texts that end an answer.
    Unless it `warns`, nothing is said of questions that an embedded model was not trained for.
    Raises ConfigError if the call asks for memory that no agent hands over, TopologyError for prompts that these
    questions cannot render, TaskError for questions whose graders are not installed.
    """
    if keep_memory or thinks or memory is not None or config.save_memory is not None:
        check_one_reader(topology)
    # With `memory` only the answering agent runs.
    answering = [agent.replace(reads=()) for agent in topology.answering_agents]
    prompts = RenderedPrompts.of(topology if memory is None else topology.replace(agents=answering), questions)
    decision = decision_of(config, topology)
    if decision.votes:
        check_votes(questions)
    check_graders(questions, unsafe_programs=config.unsafe_programs)
    team = team_of(config, topology)
    for one in team.models if warns else ():
        warn_of_untrained(one.name, questions)
    if keep_memory and memory is not None:
        raise ConfigError("keep_memory", True, "a call with memory returns no other memory; leave out one of the two")
    if keep_memory or thinks:
        check_returns_memory(config, topology)
    goal: Goal = "think" if thinks else "answer" if memory is None else "answer-from-memory"
    resolved = config.resolved(tasks.task_max_new_tokens(questions))
    settings = replace(
        settings_of(resolved, questions, prompts, decision), streamed=frozenset(streamed), stop=tuple(stop)
    )
    request = RunRequest(
        topology=topology,
        settings=settings,
        batches=plan_batches(questions, config.batch_size),
        observer=observer,
        goal=goal,
        given=given,
        keeps_memory=keep_memory or (config.save_memory is not None and memory is None),
        withdrawn=withdrawn,
        team=team,
    )
    check = None if memory is None else partial(_check_fits, memory, topology.answering_agent.name, team)
    return Call(questions=questions, request=request, decision=decision, check_memory=check)


def settings_of(
    config: RunConfig, questions: Sequence[Question], prompts: RenderedPrompts, decision: DecisionSettings
) -> DriverSettings:
    """Return the scheduler's part of a configuration; the first `config.trace` questions are traced."""
    traced = [question.id for question in questions[: config.trace]]
    return DriverSettings.from_config(config, traced, prompts, decision)


def given_memory(memory: "Memory") -> GivenMemory:
    """Return memory in the form that is sent with a turn."""
    return GivenMemory(
        reads=memory.reads,
        segments=memory.to_wire(),
        recomputed=frozenset() if memory.has_kv else frozenset(memory.segments),
        texts=memory.texts,
    )


def check_is_memory(memory: object) -> None:
    """Raise MemoryInputError if `memory` is not a `Memory`."""
    from latentmas_ray.memory import Memory  # imports torch, which the caller has imported

    if not isinstance(memory, Memory):
        raise MemoryInputError("memory", memory, "it must be a Memory; Memory.load(path) reads one from its file")


def check_returns_memory(config: RunConfig, topology: Topology) -> None:
    """Raise ConfigError if the answering agent reads no memory, or that of another model: then what it reads is not
    what was written, and its segments do not fit together."""
    check_one_reader(topology)
    answering, use = topology.answering_agent.name, "keep" if config.save_memory is None else "save (save_memory)"
    if topology.memory_read_by(answering):
        foreign = team_of(config, topology).foreign_to(topology, answering)
        for writer, model in foreign.items():
            what = f"{answering} reads the memory of {writer} ({model}) translated"
            expected = f"{what}, and only memory of one model can be {'kept' if use == 'keep' else 'saved'}"
            raise ConfigError("models", describe_models(config.model, config.models), expected)
        return
    field, value, remedy = "topology", topology.name, "let it read an agent that thinks latently"
    if config.method != "latent":
        field, value, remedy = "method", config.method, "use method latent"
    elif config.memory == "none":
        field, value, remedy = "memory", config.memory, "use another control, or matched"
    expected = f"the answering agent of {topology.name} reads no memory, so there is none to {use}; {remedy}"
    raise ConfigError(field, value, expected)


def check_one_reader(topology: Topology) -> None:
    """Raise TopologyError if several agents answer: each reads memory of its own."""
    if len(topology.answering_agents) > 1:
        names = ", ".join(agent.name for agent in topology.answering_agents)
        expected = f"{names} answer, and each reads memory of its own: memory is kept and given where one agent answers"
        raise TopologyError(topology.at("agents"), topology.name, expected)


def _check_fits(memory: "Memory", reader: str, team: Team, info: RuntimeInfo) -> None:
    memory.check_fits(info.spec_of(reader), team.by_agent[reader].name)
