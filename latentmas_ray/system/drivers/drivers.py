"""The drivers of a run: started, started again, and ended."""

import tempfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from latentmas_ray.config import RunConfig, divide_replicas
from latentmas_ray.errors import RunError
from latentmas_ray.placement import ClusterPart, divide_nodes
from latentmas_ray.runs.results import Answer, Failure
from latentmas_ray.runs.run_events import Observer
from latentmas_ray.scheduler.batch import Batch
from latentmas_ray.scheduler.protocol import RuntimeInfo
from latentmas_ray.system.drivers.division import LOOK_SECONDS, Division, shared_fields
from latentmas_ray.system.drivers.messages import Message, unpack_error
from latentmas_ray.system.drivers.process import DriverProcess
from latentmas_ray.tasks.question import Question

if TYPE_CHECKING:
    from latentmas_ray.actors.cluster import Cluster

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
                process.send(
                    type="start", fields=shared_fields(config), num_batches=-(-num_batches // len(self._parts))
                )
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
                division = Division(self, config, questions, batches, folder, observer)
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
            process, message = self._inbox.get(timeout=LOOK_SECONDS)
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


@contextmanager
def _folder_of(config: RunConfig) -> Iterator[Path]:
    """Yield the folder in which the drivers of a run have theirs: its output, or a temporary one without."""
    if config.output is not None:
        yield Path(config.output)
        return
    with tempfile.TemporaryDirectory(prefix="latentmas-drivers-") as folder:
        yield Path(folder)
