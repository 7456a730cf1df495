"""The drivers of a run: divides its batches among them, and passes on what they report."""

import tempfile
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from latentmas_ray.config import RunConfig, divide_replicas
from latentmas_ray.errors import InputError, LatentMASError, RunError
from latentmas_ray.placement import ClusterPart, divide_nodes
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
from latentmas_ray.scheduler.protocol import RuntimeInfo
from latentmas_ray.system.drivers.journals import DriverRows, driver_folder
from latentmas_ray.system.drivers.messages import Message, unpack_error
from latentmas_ray.system.drivers.process import DriverProcess
from latentmas_ray.tasks.question import Question

if TYPE_CHECKING:
    from latentmas_ray.actors.cluster import Cluster

MAX_RESTARTS = 3  # of a driver, without an answer in between
_LOOK_SECONDS = 0.2  # the longest wait for a message, so that Ctrl-C works
# Each driver has values of its own in these fields.
_OWN_FIELDS = ("drivers", "replicas", "address", "output", "resume")
_Inbox = SimpleQueue[tuple[DriverProcess, Message | None]]


class Drivers:
    """Starts the drivers when an evaluation first needs them; they stay for the next ones, with their actors."""

    def __init__(self, config: RunConfig, topology: str | None) -> None:
        """`topology` is the text of one that was made in Python."""
        self._config, self._topology = config, topology
        self._processes: dict[int, DriverProcess] = {}
        self._inbox: _Inbox = SimpleQueue()
        self._cluster: Cluster | None = None
        self._parts: Sequence[ClusterPart] = ()
        self._address = ""

    def start(self, config: RunConfig, num_batches: int) -> RuntimeInfo:
        """Start all drivers and their runtimes, at the same time, for so many batches in all. Raises the errors of
        `Runtime.start`, and ConfigError for a cluster that so many drivers cannot divide."""
        try:
            self._connect()
            for number in range(len(self._parts)):
                if number not in self._processes:
                    self._start_process(number)
            for process in self._processes.values():
                process.send(type="start", fields=_fields(config), num_batches=-(-num_batches // len(self._parts)))
            started = self._await_started()
        except BaseException:
            self.close()
            raise
        first = started[0]
        return RuntimeInfo(
            bytes_per_token=0,  # each driver has a limit of its own on the memory in flight
            memory_limit_bytes=0,
            description=f"{len(started)} drivers, each with a part of the cluster; the first: {first['description']}",
            engines=first["engines"],
        )

    def run(
        self, config: RunConfig, questions: Sequence[Question], batches: Sequence[Batch], observer: Observer
    ) -> Generator[Answer | Failure, None, None]:
        """Yield the results of these batches, in the order in which they come. Raises what ended a driver, once the
        others have answered what they can; an InputError at once."""
        is_over = False
        try:
            with _folder_of(config) as folder:
                division = _Division(self, config, questions, batches, folder, observer)
                yield from division.results()
            is_over = True
        finally:
            if not is_over:  # they still compute
                self.close()

    def restart(self, number: int) -> None:
        """Start a driver again that has ended."""
        self.give_up(number)
        self._start_process(number)

    def give_up(self, number: int) -> None:
        """Do without a driver that has ended, until the next `start`."""
        self._processes.pop(number).ask_to_end()

    @property
    def processes(self) -> Mapping[int, DriverProcess]:
        """The current drivers, by number."""
        return self._processes

    def next_message(self) -> tuple[DriverProcess, Message | None] | None:
        """Return the next message of a driver, None in place of one for its end; None if none comes in time."""
        try:
            process, message = self._inbox.get(timeout=_LOOK_SECONDS)
        except Empty:
            return None
        return (process, message) if self._processes.get(process.number) is process else None

    def close(self) -> None:
        """End all drivers, and leave the cluster. Safe to call twice."""
        processes, self._processes = self._processes, {}
        for process in processes.values():
            process.ask_to_end()
        for process in processes.values():
            process.wait()
        self._inbox = SimpleQueue()
        cluster, self._cluster, self._parts = self._cluster, None, ()
        if cluster is not None:
            cluster.disconnect()

    def _connect(self) -> None:
        """Join or start the cluster that the drivers join. Raises ConfigError, ClusterError."""
        if self._cluster is not None:
            return
        from latentmas_ray.actors.cluster import connect_as_configured, current_address

        self._cluster = connect_as_configured(self._config.address)
        self._address = current_address()
        self._parts = divide_nodes(self._cluster.nodes, self._config.drivers)

    def _start_process(self, number: int) -> DriverProcess:
        own = {
            **self._config.model_dump(mode="json"),
            "drivers": 1,
            "replicas": divide_replicas(self._config.replicas, number, len(self._parts)),
            "address": self._address,
            "output": None,
            "resume": False,
        }
        setup = {"type": "setup", "config": own, "topology": self._topology, "part": asdict(self._parts[number])}
        process = self._processes[number] = DriverProcess(number, {**setup, "number": number}, self._inbox)
        return process

    def _await_started(self) -> list[Message]:
        """Return what each driver says of its runtime. Raises its error, if one does not start."""
        started: dict[int, Message] = {}
        while len(started) < len(self._processes):
            if (found := self.next_message()) is None:
                continue
            process, message = found
            if message is None:
                raise RunError(f"{process.name} ended before it had started: {process.how_it_ended()}")
            if message["type"] == "error":
                raise unpack_error(message["error"])
            if message["type"] == "started":
                started[process.number] = message
        return [started[number] for number in sorted(started)]


class _Division:
    """One run, divided among drivers: who has which batches, and what has its result."""

    def __init__(
        self,
        drivers: Drivers,
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
        self._progress: dict[int, Message] = {}
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
            fields=_fields(self._config),
            folder=str(driver_folder(self._folder, number)),
            batches=sorted(batches),
            done=sorted(self._done),
        )

    def _handle(self, process: DriverProcess, message: Message | None) -> Iterator[Answer | Failure]:
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
                self._progress.pop(number, None)
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

    def _replace(self, process: DriverProcess) -> None:
        """Start a driver again that has died, with what it has left to do; or give it up, and let others do that."""
        number, how = process.number, self._said.pop(process.number, None) or process.how_it_ended()
        had = {batch for batch in self._has.pop(number, set()) if self._open[batch]}
        self._progress.pop(number, None)
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

    def _report(self, *, is_last: bool = False) -> None:
        """Report the progress of all drivers together, a few times a second."""
        now = time.monotonic()
        if not is_last and now - self._reported_at < _LOOK_SECONDS:
            return
        self._reported_at = now
        sums = {
            name: sum(one[name] for one in self._progress.values())
            for name in ("batches_in_flight", "memory_in_flight_bytes", "tokens", "num_writing")
        }
        self._observer.on_event(
            RunProgress(
                num_questions=len(self._questions),
                num_done=len(self._done),
                num_failed=self._num_failed,
                seconds=now - self._begun_at,
                **sums,
            )
        )


def _fields(config: RunConfig) -> dict[str, Any]:
    """Return the fields of an evaluation that are the same for all drivers."""
    return {name: value for name, value in config.model_dump(mode="json").items() if name not in _OWN_FIELDS}


def _questions(count: int) -> str:
    return f"{count} question" + ("" if count == 1 else "s")


@contextmanager
def _folder_of(config: RunConfig) -> Iterator[Path]:
    """Yield the folder in which the drivers of a run have theirs: its output, or a temporary one without."""
    if config.output is not None:
        yield Path(config.output)
        return
    with tempfile.TemporaryDirectory(prefix="latentmas-drivers-") as folder:
        yield Path(folder)
