"""One call of `ask`, `map`, `as_completed` or `think`, checked before anything starts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from latentmas_ray.config import RunConfig
from latentmas_ray.engine.turn import GivenMemory
from latentmas_ray.errors import ConfigError, MemoryInputError
from latentmas_ray.runs.run_events import Observer
from latentmas_ray.scheduler.batch import plan_batches
from latentmas_ray.scheduler.protocol import RuntimeInfo
from latentmas_ray.scheduler.run import RunRequest
from latentmas_ray.scheduler.turns import DriverSettings, Goal
from latentmas_ray.tasks import check_graders, task_max_new_tokens
from latentmas_ray.tasks.question import Question
from latentmas_ray.tasks.trained import warn_of_untrained
from latentmas_ray.topology import RenderedPrompts, Topology

if TYPE_CHECKING:
    from latentmas_ray.memory import Memory


@dataclass(frozen=True, kw_only=True)
class Call:
    """The questions of a call, and what the scheduler is asked for."""

    questions: Sequence[Question]
    request: RunRequest
    check_memory: Callable[[RuntimeInfo], None] | None = None  # called once the model is known


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
) -> Call:
    """The call that answers `questions`, from `memory` if there is one, or that `thinks` and brings their memory.

    `given` is `given_memory(memory)`, one object for all calls with the same memory.
    Raises ConfigError where the call wants memory that no agent hands over, TopologyError for prompts that these
    questions do not fill, TaskError for questions that cannot be graded here.
    """
    # On memory that is given no other agent works.
    answering = [topology.answering_agent.replace(reads=())]
    prompts = RenderedPrompts.of(topology if memory is None else topology.replace(agents=answering), questions)
    check_graders(questions)
    warn_of_untrained(config.model, questions)
    if keep_memory and memory is not None:
        raise ConfigError("keep_memory", True, "with memory given there is no other to keep; leave one of the two out")
    if keep_memory or thinks:
        check_keeps(config, topology)
    goal: Goal = "think" if thinks else "answer" if memory is None else "answer-from-memory"
    resolved = config.resolved(task_max_new_tokens(questions))
    request = RunRequest(
        topology=topology,
        settings=settings_of(resolved, questions, prompts),
        batches=plan_batches(questions, config.batch_size),
        observer=observer,
        goal=goal,
        given=given,
        keeps_memory=keep_memory or (config.save_memory is not None and memory is None),
        model=config.model,
    )
    check = None if memory is None else partial(_check_fits, memory, config.model)
    return Call(questions=questions, request=request, check_memory=check)


def settings_of(config: RunConfig, questions: Sequence[Question], prompts: RenderedPrompts) -> DriverSettings:
    """The scheduler's part of a configuration; the first questions are traced, whatever has an answer already."""
    return DriverSettings.from_config(config, [question.id for question in questions[: config.trace]], prompts)


def given_memory(memory: "Memory") -> GivenMemory:
    """Memory as it travels with a turn."""
    return GivenMemory(
        reads=memory.reads,
        segments=memory.to_wire(),
        recomputed=frozenset() if memory.has_kv else frozenset(memory.segments),
        texts=memory.texts,
    )


def check_is_memory(memory: object) -> None:
    """Raises MemoryInputError for whatever else was given."""
    from latentmas_ray.memory import Memory  # needs torch, as whoever has one

    if not isinstance(memory, Memory):
        raise MemoryInputError("memory", memory, "it must be a Memory; Memory.load(path) reads one from its file")


def check_keeps(config: RunConfig, topology: Topology) -> None:
    """Raises ConfigError where the answering agent reads no memory that could be kept."""
    if topology.memory_read_by(topology.answering_agent.name):
        return
    field, value, remedy = "topology", topology.name, "let it read an agent that thinks latently"
    if config.method != "latent":
        field, value, remedy = "method", config.method, "use method latent"
    elif config.memory == "none":
        field, value, remedy = "memory", config.memory, "use another control, or matched"
    use = "keep" if config.save_memory is None else "save (save_memory)"
    expected = f"the answering agent of {topology.name} reads no memory, so there is none to {use}; {remedy}"
    raise ConfigError(field, value, expected)


def _check_fits(memory: "Memory", model: str, info: RuntimeInfo) -> None:
    memory.check_fits(info.kv_spec, model)
