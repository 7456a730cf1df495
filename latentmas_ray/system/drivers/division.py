"""One run, divided among drivers: who has which batches, what has its result, and what all of them report."""

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from latentmas_ray.config import RunConfig
from latentmas_ray.errors import InputError, LatentMASError, RunError
from latentmas_ray.runs.results import Answer, Failure
from latentmas_ray.runs.run_events import (
    Observer,
    QuestionAnswered,
    QuestionFailed,
    RunEnded,
    RunProgress,
    RunStarted,
    TurnRepeated,
)
from latentmas_ray.scheduler.batch import Batch
from latentmas_ray.system.drivers.journals import DriverRows, driver_folder
from latentmas_ray.system.drivers.messages import Message, unpack_error
from latentmas_ray.tasks.question import Question

MAX_RESTARTS = 3  # of a driver, without an answer in between
LOOK_SECONDS = 0.2  # the longest wait for a message, so that Ctrl-C works; and between two reports of progress
# Each driver has values of its own in these fields.
_OWN_FIELDS = ("drivers", "replicas", "address", "output", "resume")


class Driver(Protocol):
    """One driver, which executes messages."""

    @property
    def number(self) -> int: ...

    @property
    def name(self) -> str: ...

    def send(self, **message: Any) -> None: ...

    def how_it_ended(self) -> str: ...


class DriverPool(Protocol):
    """The drivers that there are, and their messages."""

    @property
    def processes(self) -> Mapping[int, Driver]: ...

    def next_message(self) -> tuple[Driver, Message | None] | None: ...

    def restart(self, number: int) -> None: ...

    def give_up(self, number: int) -> None: ...


class Division:
    """The batches of one run, and the drivers that answer them."""

    def __init__(
        self,
        drivers: DriverPool,
        config: RunConfig,
        questions: Sequence[Question],
        batches: Sequence[Batch],
        folder: Path,
        observer: Observer,
    ) -> None:
        self._drivers, self._config, self._folder, self._observer = drivers, config, folder, observer
        self._questions = {question.id: question for question in questions}
        self._open = {one.number: {question.id for question in one.open_questions} for one in batches}
        self._batch_of = {name: number for number, names in self._open.items() for name in names}
        self._done = set(self._questions.keys() - self._batch_of.keys())  # ids with an answer
        self._has: dict[int, set[int]] = {}  # by driver that works: the numbers of its batches
        self._rows = {number: DriverRows(driver_folder(folder, number)) for number in drivers.processes}
        self._num_deaths = dict.fromkeys(drivers.processes, 0)  # by driver, since its last answer
        self._error: LatentMASError | None = None  # of a driver that is given up
        self._said: dict[int, str] = {}  # by driver that ends: why, if it told
        self._progress: dict[int, Message] = {}  # by driver that works
        self._num_tokens = 0  # of work that has ended
        self._num_failed = 0
        self._begun_at = self._reported_at = time.monotonic()

    def results(self) -> Iterator[Answer | Failure]:
        """Yield all results; report to the observer."""
        started = RunStarted(
            description=f"{len(self._rows)} drivers", num_questions=len(self._questions), num_done=len(self._done)
        )
        self._observer.on_event(started)
        numbers = list(self._drivers.processes)
        for place, number in enumerate(numbers):
            self._assign(number, set(list(self._open)[place :: len(numbers)]))
        try:
            while self._has:
                if (found := self._drivers.next_message()) is not None:
                    yield from self._handle(*found)
                self._report()
            if self._error is not None and any(self._open.values()):
                raise self._error
        finally:
            self._report(is_last=True)
            self._observer.on_event(RunEnded())

    def _assign(self, number: int, batches: set[int]) -> None:
        """Let a driver answer these batches."""
        if not batches:
            return
        self._has[number] = batches
        self._drivers.processes[number].send(
            type="answer",
            fields=shared_fields(self._config),
            folder=str(driver_folder(self._folder, number)),
            batches=sorted(batches),
            done=sorted(self._done),
        )

    def _handle(self, process: Driver, message: Message | None) -> Iterator[Answer | Failure]:
        number = process.number
        for answer in self._rows[number].take(self._questions):
            if answer.id not in self._done:
                yield self._note(number, answer)
        if message is None:
            self._replace(process)
            return
        match message["type"]:
            case "progress":
                self._progress[number] = message
            case "failed":
                yield self._note(number, Failure(**message["failure"]))
            case "repeated":
                self._observer.on_event(TurnRepeated(agent=message["agent"], reason=message["reason"]))
            case "error":
                self._error = unpack_error(message["error"])
                if isinstance(self._error, InputError):
                    raise self._error
                self._said[number] = str(self._error)
            case "done":
                self._has.pop(number, None)
                self._end_progress(number)
                self._assign(number, self._left_over())

    def _note(self, number: int, result: Answer | Failure) -> Answer | Failure:
        """Count a result, and return it."""
        if (batch := self._batch_of.get(result.id)) is not None:
            self._open[batch].discard(result.id)
        if isinstance(result, Answer):
            self._done.add(result.id)
            self._num_deaths[number] = 0
            self._observer.on_event(QuestionAnswered(answer=result))
        else:
            self._num_failed += 1
            self._observer.on_event(QuestionFailed(failure=result))
        return result

    def _replace(self, process: Driver) -> None:
        """Start a driver again that has died, with what it has left to do; or give it up, and let others do that."""
        number, how = process.number, self._said.pop(process.number, None) or process.how_it_ended()
        had = {batch for batch in self._has.pop(number, set()) if self._open[batch]}
        self._end_progress(number)
        self._num_deaths[number] += 1
        if self._num_deaths[number] <= MAX_RESTARTS:
            why = (
                f"{process.name} was lost ({how}); it starts again, with the {_questions(self._count(had))} it had left"
            )
            self._observer.on_event(TurnRepeated(agent=process.name, reason=why))
            self._drivers.restart(number)
            self._assign(number, had)
            return
        self._error = self._error or RunError(f"{process.name} was lost {MAX_RESTARTS + 1} times: {how}")
        self._drivers.give_up(number)
        idle = [other for other in self._drivers.processes if other not in self._has]
        if idle:
            self._assign(idle[0], self._left_over())

    def _left_over(self) -> set[int]:
        """Return the batches that no driver has, and that have questions without a result."""
        taken = {batch for batches in self._has.values() for batch in batches}
        return {batch for batch, names in self._open.items() if names and batch not in taken}

    def _count(self, batches: set[int]) -> int:
        return sum(len(self._open[batch]) for batch in batches)

    def _end_progress(self, number: int) -> None:
        """Of a driver that has no work any more only the tokens remain."""
        if (last := self._progress.pop(number, None)) is not None:
            self._num_tokens += last["tokens"]

    def _report(self, *, is_last: bool = False) -> None:
        """Report the progress of all drivers together, a few times a second."""
        now = time.monotonic()
        if not is_last and now - self._reported_at < LOOK_SECONDS:
            return
        self._reported_at = now
        sums = {
            name: sum(one[name] for one in self._progress.values())
            for name in ("batches_in_flight", "memory_in_flight_bytes", "tokens", "num_writing")
        }
        sums["tokens"] += self._num_tokens
        self._observer.on_event(
            RunProgress(
                num_questions=len(self._questions),
                num_done=len(self._done),
                num_failed=self._num_failed,
                seconds=now - self._begun_at,
                **sums,
            )
        )


def shared_fields(config: RunConfig) -> dict[str, Any]:
    """Return the fields of an evaluation that are the same for all drivers."""
    return {name: value for name, value in config.model_dump(mode="json").items() if name not in _OWN_FIELDS}


def _questions(count: int) -> str:
    return f"{count} question" + ("" if count == 1 else "s")
