"""`LatentMAS`: the Python interface."""

import logging
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Sequence
from contextlib import aclosing, closing
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack, overload

from latentmas_ray.config import MemoryName, RunConfig, make_config
from latentmas_ray.engine.timing.progress import TurnProgress
from latentmas_ray.errors import QuestionsFailedError
from latentmas_ray.runs.controls.names import parse_controls
from latentmas_ray.runs.controls.summary import ControlsSummary
from latentmas_ray.runs.multi_seed import SeedsSummary
from latentmas_ray.runs.results import Answer, Failure, ReturnedMemory, Summary
from latentmas_ray.runs.run_events import Observer
from latentmas_ray.system.deciding import decider
from latentmas_ray.system.fields import RunFields
from latentmas_ray.system.memory_folder import MemoryFolder
from latentmas_ray.system.serving.text_stream import astream_text, stream_text
from latentmas_ray.system.settings import StartSettings, find_preset, read_config_file
from latentmas_ray.system.setup import QuestionLike, Setup
from latentmas_ray.system.stream import ResultStream
from latentmas_ray.topology import Topology

if TYPE_CHECKING:
    from latentmas_ray.memory import Memory
    from latentmas_ray.models.given import ModelObject, TokenizerObject

_LOG = logging.getLogger(__name__)


class LatentMAS:
    """Several agents that answer questions together. Use it as a context manager.

        with LatentMAS("tiny", topology="sequential", temperature=0.0) as mas:
            print(mas.ask("Nadia has 5 beads. Then Nadia finds 3 more. How many beads has Nadia now?").answer)

    The keywords are the fields of `RunConfig`. Models are loaded, and Ray is started, at the first call.
    Several threads and event loops may use one object at the same time: their batches run
    interleaved, and each caller gets the answers to its own questions.
    """

    def __init__(
        self,
        model: "str | RunConfig | ModelObject | None" = None,
        *,
        tokenizer: "TokenizerObject | None" = None,
        topology: str | Topology | None = None,
        observer: Observer | None = None,
        **fields: Unpack[RunFields],
    ) -> None:
        """Check everything that can be checked without starting anything.

        `model` is `tiny`, a folder or a hub id; or a model object of transformers, with its `tokenizer`; or a whole
        configuration, which the keywords override. `topology` is a name, a file, or a `Topology` made in Python.
        `observer` gets every event of all calls (`runs.run_events`).

        Raises ConfigError, TopologyError or ModelError, each naming the field, the value and what would be right.
        """
        self._setup = Setup(model, tokenizer, topology, observer, dict(fields))

    @classmethod
    def from_config(
        cls,
        path: str | Path,
        *,
        topology: str | Topology | None = None,
        observer: Observer | None = None,
        **fields: Unpack[RunFields],
    ) -> Self:
        """Return the system of an earlier run, from its config.yaml or the folder with it; the keywords override its
        settings.

        Its output folder, address and `detach` are not taken over, nor what a user has to allow each time. Raises
        ConfigError for a file that no run wrote, and for a task, model or topology that is not there any more; and what
        the constructor raises.
        """
        start = read_config_file(path, {*fields, *(() if topology is None else ("topology",))})
        for note in start.notes:
            _LOG.warning("%s", note)
        return cls._started(start, topology, observer, fields)

    @classmethod
    def from_preset(
        cls,
        name: str,
        *,
        topology: str | Topology | None = None,
        observer: Observer | None = None,
        **fields: Unpack[RunFields],
    ) -> Self:
        """Return a system with published settings, one of `latentmas presets`; the keywords override them. Raises
        ConfigError for an unknown name, and what the constructor raises."""
        return cls._started(find_preset(name).start(), topology, observer, fields)

    @classmethod
    def _started(
        cls, start: StartSettings, topology: str | Topology | None, observer: Observer | None, fields: RunFields
    ) -> Self:
        named = topology if isinstance(topology, str) else start.fields.get("topology")
        values = make_config({**start.fields, **fields, **({} if named is None else {"topology": named})})
        # Only what is given here counts as given: the other fields may do nothing without a warning.
        config = RunConfig.model_construct({*fields}, **dict(values))
        return cls(config, topology=topology if isinstance(topology, Topology) else None, observer=observer)

    @property
    def config(self) -> RunConfig:
        """The configuration, checked."""
        return self._setup.config

    @property
    def topology(self) -> Topology:
        """The topology that runs: the configured one, changed by the method and the memory control."""
        return self._setup.topology

    def ask(self, question: QuestionLike, *, memory: "Memory | None" = None, keep_memory: bool = False) -> Answer:
        """Return the answer to one question: a text, a record with `question` (and `id`, `gold`, and other fields of
        prompts), or a `Question`. Writes no files.

        With `memory` only the answering agent runs, on that memory. With `keep_memory` the answer has the memory that
        the answering agent read. Raises TaskError, TopologyError, ConfigError or IncompatibleMemoryError for an invalid
        call, QuestionsFailedError if the question has no answer, ActorError and ClusterError if the run is aborted.
        """
        with closing(self.map([question], memory=memory, keep_memory=keep_memory)) as answers:
            return next(answers)

    async def aask(
        self, question: QuestionLike, *, memory: "Memory | None" = None, keep_memory: bool = False
    ) -> Answer:
        """Like `ask`, without blocking the event loop. Cancelling the task cancels the question."""
        async with aclosing(self.map([question], memory=memory, keep_memory=keep_memory)) as answers:
            return await anext(answers)

    def stream(self, question: QuestionLike) -> Generator[str | Answer, None, None]:
        """Yield the answer's text in pieces, as it is written, then the `Answer`; of several answers to a question the
        chosen text is one piece. Leaving the loop cancels the question. Raises the errors of `ask`."""
        return stream_text(self._setup, question)

    def astream(self, question: QuestionLike) -> AsyncGenerator[str | Answer, None]:
        """Like `stream`, within an event loop."""
        return astream_text(self._setup, question)

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
        return_failures: bool,
    ) -> ResultStream[Answer | Failure]: ...

    def map(
        self,
        questions: Iterable[QuestionLike],
        *,
        memory: "Memory | None" = None,
        keep_memory: bool = False,
        return_failures: bool = False,
    ) -> ResultStream[Any]:
        """Return a stream of answers in the order of the questions, for a `for` or an `async for` loop; see `ask`. All
        questions read the same `memory`.

        With `return_failures` the stream has a `Failure` in place of a missing answer; else it raises
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
        return_failures: bool,
    ) -> ResultStream[Answer | Failure]: ...

    def as_completed(
        self,
        questions: Iterable[QuestionLike],
        *,
        memory: "Memory | None" = None,
        keep_memory: bool = False,
        return_failures: bool = False,
    ) -> ResultStream[Any]:
        """Like `map`, in the order in which answers finish."""
        return self._stream(questions, memory, keep_memory, in_order=False, return_failures=return_failures)

    def run(self, questions: Iterable[QuestionLike]) -> ResultStream[Answer]:
        """The older name of `as_completed`."""
        return self.as_completed(questions)

    def think(self, question: QuestionLike) -> "Memory":
        """Run all agents but the answering one, and return the working memory that the answering agent would read.

        `ask(question, memory=…)` continues from it, in this or another process. Raises the errors of `ask`.
        """
        call = self._setup.call([question], thinks=True)
        with closing(self._setup.live.run(call.request)) as results:
            (result,) = results
        if isinstance(result, ReturnedMemory):
            return result.memory()
        raise QuestionsFailedError((result,), 1)

    @overload
    def evaluate(
        self,
        task: str | None = None,
        *,
        limit: int | None = None,
        output: str | None = None,
        resume: bool | None = None,
        seeds: None = None,
        latent_steps: int | str | None = None,
        controls: None = None,
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
        latent_steps: int | str | None = None,
        controls: None = None,
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
        controls: None = None,
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
        controls: None = None,
        on_seed: Callable[[int], None] | None = None,
    ) -> dict[int, SeedsSummary]: ...

    @overload
    def evaluate(
        self,
        task: str | None = None,
        *,
        limit: int | None = None,
        output: str | None = None,
        resume: bool | None = None,
        seeds: str | Sequence[int] | None = None,
        latent_steps: int | str | None = None,
        controls: str | Sequence[str] | Literal[True],
        on_seed: Callable[[int], None] | None = None,
        on_control: Callable[[MemoryName], None] | None = None,
    ) -> ControlsSummary: ...

    @overload
    def evaluate(
        self,
        task: str | None = None,
        *,
        limit: int | None = None,
        output: str | None = None,
        resume: bool | None = None,
        seeds: str | Sequence[int] | None = None,
        latent_steps: Sequence[int],
        controls: str | Sequence[str] | Literal[True],
        on_seed: Callable[[int], None] | None = None,
        on_control: Callable[[MemoryName], None] | None = None,
    ) -> dict[int, ControlsSummary]: ...

    def evaluate(
        self,
        task: str | None = None,
        *,
        limit: int | None = None,
        output: str | None = None,
        resume: bool | None = None,
        seeds: str | Sequence[int] | None = None,
        latent_steps: int | str | Sequence[int] | None = None,
        controls: str | Sequence[str] | Literal[True] | None = None,
        on_seed: Callable[[int], None] | None = None,
        on_control: Callable[[MemoryName], None] | None = None,
    ) -> Any:
        """Answer all questions of a task, and grade the answers. Arguments left out have their configured values.

        With `seeds` the task is evaluated once for each seed, with several `latent_steps` once for each number, and
        with `controls` (such as "matched,deranged,none", which True stands for) once for each memory control, all on
        the same actors: models are loaded once. Results are written to `output` (a folder or URL) as they finish; each
        seed has its own folder `seed-S` in it, each number of steps `latent-steps-M`, each control `memory-NAME`, and
        `resume` continues interrupted runs. Failed questions are counted in the summary and written to failures.jsonl.
        `on_seed` and `on_control` are called with each seed and each control before it starts.

        Raises InputError kinds for invalid input, before anything starts; RunError kinds if the run is aborted.
        """
        changes: dict[str, Any] = {"task": task, "limit": limit, "output": output, "resume": resume}
        steps = None if latent_steps is None or isinstance(latent_steps, int | str) else latent_steps
        if steps is None:
            changes["latent_steps"] = latent_steps
        changes = {name: value for name, value in changes.items() if value is not None}
        if controls is not None:
            evaluation = self._setup.controls(changes, parse_controls(controls), on_control or _ignore)
            return evaluation.run(seeds, steps, on_seed or _ignore)
        return self._setup.evaluation(changes).run(seeds, steps, on_seed or _ignore)

    def running_turns(self) -> list[TurnProgress]:
        """Return how far the turns are that run now: each agent, what it computes, and how much of it. Another thread
        than that of the run calls this, as a heartbeat."""
        return self._setup.live.running_turns()

    def close(self) -> None:
        """Shut down the actors and, if this object started it, Ray. Active calls raise RunError. Safe to call twice; a
        later call starts a new runtime."""
        self._setup.drivers.close()
        self._setup.live.close()
        self._setup.spans.close()

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
        call = self._setup.call(questions, memory=memory, keep_memory=keep_memory)
        folder = MemoryFolder.of(self.config.save_memory)
        return ResultStream(
            partial(self._setup.live.run, call.request, call.check_memory),
            partial(self._setup.live.arun, call.request, call.check_memory),
            [question.id for question in call.questions],
            finish=partial(folder.save, returns_memory=keep_memory),
            decide=decider(call.questions, call.decision),
            in_order=in_order,
            return_failures=return_failures,
        )


def _ignore(started: object) -> None:
    """The default of `on_seed` and `on_control`."""
