"""`LatentMAS`: a team of agents, and what can be asked of it."""

import hashlib
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import aclosing, closing
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack, overload

from latentmas_ray.config import RunConfig, make_config, replicas_by_agent
from latentmas_ray.driver import (
    Answer,
    Batch,
    Failure,
    KeptMemory,
    Observer,
    Result,
    RunRequest,
    Runtime,
    SilentObserver,
    Summary,
)
from latentmas_ray.driver.over_seeds import SeedsSummary
from latentmas_ray.errors import ConfigError, QuestionsFailedError
from latentmas_ray.models.names import absolute_name, check_name
from latentmas_ray.placement.strategies import ALIKE
from latentmas_ray.system.call import Call, check_keeps, plan_call, settings_of
from latentmas_ray.system.evaluation import Evaluation
from latentmas_ray.system.fields import RunFields
from latentmas_ray.system.live import LiveRuntime
from latentmas_ray.system.make_runtime import make_metrics, make_runtime
from latentmas_ray.system.memory_folder import MemoryFolder
from latentmas_ray.system.stream import ResultStream
from latentmas_ray.tasks import check_graders, derange, load_questions, questions_from, task_max_new_tokens
from latentmas_ray.tasks.question import Question
from latentmas_ray.tasks.trained import warn_of_untrained
from latentmas_ray.topology import (
    Topology,
    apply_control,
    apply_method,
    builtin_for,
    check_prompts,
    dump_topology,
    load_topology,
)
from latentmas_ray.transport.choose import Situation, choose

if TYPE_CHECKING:
    from latentmas_ray.memory import Memory

QuestionLike = str | Mapping[str, Any] | Question


class LatentMAS:
    """Several agents that answer questions together. Use it as a context manager.

        with LatentMAS("tiny", topology="sequential", latent_steps=40) as mas:
            print(mas.ask("Nadia has 5 beads. Then Nadia finds 3 more. How many beads has Nadia now?").answer)

    The keywords are the fields of `RunConfig`. Models are loaded, and Ray is started, when the first question comes.
    Several threads and event loops may use one object at the same time: their questions become batches of one run, and
    each gets the answers to its own.
    """

    def __init__(
        self,
        model: str | RunConfig | None = None,
        *,
        topology: str | Topology | None = None,
        observer: Observer | None = None,
        **fields: Unpack[RunFields],
    ) -> None:
        """Check everything that can be checked without starting anything. `model` is `tiny`, a folder or a hub id, or a
        whole configuration that the keywords then change; `topology` a name, a file, or one of your own making.

        Raises ConfigError, TopologyError or ModelError, each naming the field, the value and what would be right.
        """
        values: dict[str, Any] = {}
        if isinstance(model, RunConfig):
            values = model.model_dump()
        elif model is not None:
            values["model"] = model
        self._own_topology = topology if isinstance(topology, Topology) else None
        if self._own_topology is not None:
            values["topology"] = self._own_topology.name
        elif topology is not None:
            values["topology"] = topology
        self.config = make_config({**values, **fields})
        self.topology = self._topology_for(self.config)
        self._check_transport()
        if self.config.save_memory is not None:
            check_keeps("save_memory", self.config.save_memory, self.topology)
            MemoryFolder.of(self.config.save_memory)
        check_name(self.config.model)
        # Actors on a cluster that is joined have another working directory, and so may this process when they start.
        self._model = absolute_name(self.config.model)
        self._observer = observer or SilentObserver()
        self._live = LiveRuntime(
            lambda topology, num_batches: self._make_runtime(topology, num_batches),
            partial(make_metrics, self.config),
            self.config.memory_in_flight_bytes,
        )

    def ask(self, question: QuestionLike, *, memory: "Memory | None" = None, keep_memory: bool = False) -> Answer:
        """The answer to one question: a text, a record with `question` (and `id`, `gold`, whatever else prompts use),
        or a `Question`. Writes no files.

        With `memory` only the answering agent works, on that memory. With `keep_memory` the answer has the memory that
        it was made from. Raises TaskError, TopologyError, ConfigError or IncompatibleMemoryError for what is wrong with
        the call, QuestionsFailedError if the question has no answer, ActorError and ClusterError where the run breaks
        off.
        """
        with closing(self.map([question], memory=memory, keep_memory=keep_memory)) as answers:
            return next(answers)

    async def aask(
        self, question: QuestionLike, *, memory: "Memory | None" = None, keep_memory: bool = False
    ) -> Answer:
        """Like `ask`, while the event loop goes on. Cancelling the task cancels the question."""
        async with aclosing(self.map([question], memory=memory, keep_memory=keep_memory)) as answers:
            return await anext(answers)

    @overload
    def map(
        self,
        questions: Iterable[QuestionLike],
        *,
        memory: "Memory | None" = None,
        keep_memory: bool = False,
        return_failures: Literal[False] = False,
    ) -> ResultStream[Answer]: ...

    @overload
    def map(
        self,
        questions: Iterable[QuestionLike],
        *,
        memory: "Memory | None" = None,
        keep_memory: bool = False,
        return_failures: Literal[True],
    ) -> ResultStream[Answer | Failure]: ...

    def map(
        self,
        questions: Iterable[QuestionLike],
        *,
        memory: "Memory | None" = None,
        keep_memory: bool = False,
        return_failures: bool = False,
    ) -> ResultStream[Any]:
        """Answers in the order of the questions, for a `for` loop or an `async for` loop; see `ask`. `memory` is read
        on every question.

        With `return_failures` a question that has no answer gives a `Failure` in its place; else the stream raises
        QuestionsFailedError after the last answer.
        """
        return self._stream(questions, memory, keep_memory, in_order=True, return_failures=return_failures)

    @overload
    def as_completed(
        self,
        questions: Iterable[QuestionLike],
        *,
        memory: "Memory | None" = None,
        keep_memory: bool = False,
        return_failures: Literal[False] = False,
    ) -> ResultStream[Answer]: ...

    @overload
    def as_completed(
        self,
        questions: Iterable[QuestionLike],
        *,
        memory: "Memory | None" = None,
        keep_memory: bool = False,
        return_failures: Literal[True],
    ) -> ResultStream[Answer | Failure]: ...

    def as_completed(
        self,
        questions: Iterable[QuestionLike],
        *,
        memory: "Memory | None" = None,
        keep_memory: bool = False,
        return_failures: bool = False,
    ) -> ResultStream[Any]:
        """Like `map`, in the order in which answers are finished."""
        return self._stream(questions, memory, keep_memory, in_order=False, return_failures=return_failures)

    def run(self, questions: Iterable[QuestionLike]) -> ResultStream[Answer]:
        """The older name of `as_completed`."""
        return self.as_completed(questions)

    def think(self, question: QuestionLike) -> "Memory":
        """The working memory that the answering agent would read: all agents but that one work.

        `ask(question, memory=…)` goes on from it, here or in another process. Raises what `ask` raises.
        """
        call = self._call([question], thinks=True)
        with closing(self._live.run(call.request)) as results:
            (result,) = results
        if isinstance(result, KeptMemory):
            return result.memory()
        raise QuestionsFailedError([result], 1)

    @overload
    def evaluate(
        self,
        task: str | None = None,
        *,
        limit: int | None = None,
        output: str | None = None,
        resume: bool | None = None,
        seeds: None = None,
        latent_steps: int | None = None,
    ) -> Summary: ...

    @overload
    def evaluate(
        self,
        task: str | None = None,
        *,
        limit: int | None = None,
        output: str | None = None,
        resume: bool | None = None,
        seeds: str | Sequence[int],
        latent_steps: int | None = None,
        on_seed: Callable[[int], None] | None = None,
    ) -> SeedsSummary: ...

    @overload
    def evaluate(
        self,
        task: str | None = None,
        *,
        limit: int | None = None,
        output: str | None = None,
        resume: bool | None = None,
        seeds: None = None,
        latent_steps: Sequence[int],
    ) -> dict[int, Summary]: ...

    @overload
    def evaluate(
        self,
        task: str | None = None,
        *,
        limit: int | None = None,
        output: str | None = None,
        resume: bool | None = None,
        seeds: str | Sequence[int],
        latent_steps: Sequence[int],
        on_seed: Callable[[int], None] | None = None,
    ) -> dict[int, SeedsSummary]: ...

    def evaluate(
        self,
        task: str | None = None,
        *,
        limit: int | None = None,
        output: str | None = None,
        resume: bool | None = None,
        seeds: str | Sequence[int] | None = None,
        latent_steps: int | Sequence[int] | None = None,
        on_seed: Callable[[int], None] | None = None,
    ) -> Summary | SeedsSummary | dict[int, Summary] | dict[int, SeedsSummary]:
        """Answer all questions of a task, and grade the answers. What is left out is as configured.

        With `seeds` once with each of them, with several `latent_steps` once with each number, on the same actors: no
        model is loaded again. `output` (a folder or URL) gets what finishes at once; each seed has its own folder
        `seed-S` in it, each number of steps `latent-steps-M`, and `resume` goes on with what was broken off. Failed
        questions are counted in the summary and kept in failures.jsonl. `on_seed` is told which seed begins.

        Raises InputError kinds for whatever of the user's input is wrong, before anything starts; RunError kinds if the
        run breaks off.
        """
        changes = {"task": task, "limit": limit, "output": output, "resume": resume}
        if isinstance(latent_steps, int):
            changes["latent_steps"] = latent_steps
        changes = {name: value for name, value in changes.items() if value is not None}
        config = make_config({**self.config.model_dump(), **changes}) if changes else self.config
        topology = self._topology_for(config)
        questions = self._controlled(load_questions(config.task, config.limit))
        check_prompts(topology, questions)
        check_graders(questions)
        warn_of_untrained(config.model, questions)
        evaluation = Evaluation(
            config.resolved(task_max_new_tokens(questions)),
            questions,
            topology_digest=hashlib.blake2b(dump_topology(topology).encode(), digest_size=16).hexdigest(),
            start=partial(self._live.start, topology),
            run=partial(self._run_batches, topology),
        )
        steps = None if isinstance(latent_steps, int) else latent_steps
        return evaluation.run(seeds, steps, on_seed or _ignore)

    def close(self) -> None:
        """End the actors and, if this object started it, Ray. Calls that are still at work raise RunError. Safe to call
        twice; another call starts again."""
        self._live.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _stream(
        self,
        questions: Iterable[QuestionLike],
        memory: "Memory | None",
        keep_memory: bool,
        *,
        in_order: bool,
        return_failures: bool,
    ) -> ResultStream[Any]:
        call = self._call(questions, memory=memory, keep_memory=keep_memory)
        folder = MemoryFolder.of(self.config.save_memory)
        return ResultStream(
            partial(self._live.run, call.request, call.check_memory),
            partial(self._live.arun, call.request, call.check_memory),
            [question.id for question in call.questions],
            finish=partial(folder.save, keeps=keep_memory),
            in_order=in_order,
            return_failures=return_failures,
        )

    def _call(self, questions: Iterable[QuestionLike], **more: Any) -> Call:
        asked = self._controlled(questions_from(questions))
        return plan_call(self.config, self.topology, asked, observer=self._observer, **more)

    def _run_batches(
        self, topology: Topology, config: RunConfig, questions: Sequence[Question], batches: Sequence[Batch]
    ) -> Generator[Result, None, None]:
        """The results of an evaluation of these questions, of which some are in no batch: they have an answer."""
        num_open = sum(len(batch.open_questions) for batch in batches)
        request = RunRequest(
            topology=topology,
            settings=settings_of(config, questions),
            batches=batches,
            observer=self._observer,
            num_done=len(questions) - num_open,
            keeps_memory=config.save_memory is not None,
            model=config.model,
        )
        return self._live.run(request)

    def _controlled(self, questions: list[Question]) -> list[Question]:
        return derange(questions) if self.config.memory == "deranged" else questions

    def _topology_for(self, config: RunConfig) -> Topology:
        """What is run: the configured topology, or the task's own one of that name, as method and memory make it.

        Raises ConfigError for an agent of `replicas` that there is not, and for numbers that the placement rules out.
        """
        topology = self._own_topology or load_topology(builtin_for(config.task, config.topology))
        topology = apply_method(topology, config.method, single=builtin_for(config.task, "single"))
        topology = apply_control(topology, config.memory)
        counts = replicas_by_agent(config.replicas, [agent.name for agent in topology.agents])
        if config.placement == "colocate" and len(set(counts.values())) > 1:
            raise ConfigError("replicas", ",".join(f"{name}={count}" for name, count in counts.items()), ALIKE)
        return topology

    def _check_transport(self) -> None:
        """Raises ConfigError for a transport that cannot be used wherever the actors will be."""
        config = self.config
        if config.runtime == "local" or config.placement == "colocate":
            choose(config.transport, Situation(same_process=True), config.codec)
        elif config.transport == "loopback":
            raise ConfigError(
                "transport",
                "loopback",
                "loopback stays within one process; use auto, or placement colocate or runtime local",
            )

    def _make_runtime(self, topology: Topology, num_batches: int) -> Runtime:
        return make_runtime(self.config, self._model, topology, num_batches)


def _ignore(seed: int) -> None:
    """Nobody wants to know which seed begins."""
