"""The process of a driver: `python -m latentmas_ray.system.drivers.child`. It serves one parent; see `messages`."""

import os
import signal
import sys
import threading
import time
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any

from latentmas_ray.config import make_config
from latentmas_ray.placement import ClusterPart
from latentmas_ray.runs.results import Failure
from latentmas_ray.runs.run_events import (
    Observer,
    ReplicaLost,
    ReplicaReady,
    ReplicaRetired,
    RunEvent,
    RunProgress,
    TurnFinished,
    TurnRepeated,
)
from latentmas_ray.system.drivers.messages import Message, pack_error, read_message, write_message
from latentmas_ray.system.evaluation import Evaluation
from latentmas_ray.system.setup import Setup
from latentmas_ray.topology import Topology

_PROGRESS_SECONDS = 0.2  # between two reports
_END_SECONDS = 25.0  # to end once the parent is gone


def main() -> int:
    """Serve the parent until it closes this process's input; returns the exit code."""
    # What others print to stdout, such as Ray, must not get between the messages.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    warnings.simplefilter("ignore")  # the parent has told them
    commands: SimpleQueue[Message | None] = SimpleQueue()
    driver = _ChildDriver(out)
    threading.Thread(target=_read, args=(commands, driver), name="commands", daemon=True).start()
    try:
        while (message := commands.get()) is not None:
            driver.is_busy = True
            driver.execute(message)
            driver.is_busy = False
        return 0
    except KeyboardInterrupt:
        return 0
    except Exception as error:  # noqa: BLE001  the parent raises it
        driver.report(type="error", error=pack_error(error))
        return 1
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        driver.close()


def _read(commands: "SimpleQueue[Message | None]", driver: "_ChildDriver") -> None:
    """Pass the parent's messages on. At their end the driver stops what it does; if it hangs, the process ends."""
    for line in sys.stdin.buffer:
        if (message := read_message(line)) is not None:
            commands.put(message)
    commands.put(None)
    if driver.is_busy:
        signal.raise_signal(signal.SIGINT)
    time.sleep(_END_SECONDS)
    os._exit(1)


class _ChildDriver:
    """Executes the parent's messages, one after another; an observer of its own runs."""

    def __init__(self, out: IO[bytes]) -> None:
        self.is_busy = False
        self._out = out
        self._sending = threading.Lock()
        self._setup: Setup | None = None
        self._number = 0
        self._evaluation: tuple[dict[str, Any], Evaluation] | None = None  # the last one, and its fields
        self._reported_at = 0.0
        self._progress: RunProgress | None = None  # the last one of a run, if it was not reported

    def execute(self, message: Message) -> None:
        """Execute a message. Raises what the run raises."""
        match message["type"]:
            case "setup":
                self._number = message["number"]
                config = make_config(message["config"])
                text = message["topology"]
                topology = None if text is None else Topology.parse(text)
                self._setup = Setup(config, None, topology, self, {})
                self._setup.part = _part(message["part"])
            case "start":
                info = self._evaluation_of(message["fields"]).start(message["num_batches"])
                self.report(type="started", description=info.description, engines=dict(info.engines))
            case "answer":
                self._evaluation_of(message["fields"]).answer_batches(
                    frozenset(message["batches"]),
                    message["done"],
                    Path(message["folder"]),
                    named=self._named,
                    on_failure=self._report_failure,
                )
                self._report_progress()
                self.report(type="done")

    def on_event(self, event: RunEvent) -> None:
        match event:
            case RunProgress():
                self._progress = event
                if time.monotonic() - self._reported_at >= _PROGRESS_SECONDS:
                    self._report_progress()
            case TurnRepeated(agent=agent, reason=reason):
                self.report(type="repeated", agent=agent, reason=reason)

    def report(self, **message: Any) -> None:
        """Send a message to the parent. One that is gone needs none."""
        with self._sending:
            try:
                write_message(self._out, **message)
            except OSError:
                return

    def _report_progress(self) -> None:
        progress, self._progress = self._progress, None
        if progress is not None:
            self._reported_at = time.monotonic()
            self.report(type="progress", **asdict(progress))

    def close(self) -> None:
        """Shut down the runtime."""
        if self._setup is not None:
            self._setup.live.close()
            self._setup.spans.close()

    def _evaluation_of(self, fields: dict[str, Any]) -> Evaluation:
        assert self._setup is not None, "the setup comes first"
        if self._evaluation is None or self._evaluation[0] != fields:
            self._evaluation = fields, self._setup.evaluation(fields)
        return self._evaluation[1]

    def _named(self, recorder: Observer) -> Observer:
        """Return an observer that records turns and replicas, with this driver in the names of replicas."""
        return _NamedTurns(recorder, f"driver {self._number + 1}, ")

    def _report_failure(self, failure: Failure) -> None:
        self.report(type="failed", failure=asdict(failure))


class _NamedTurns:
    """Passes on the events of turns and replicas, with a name in front of the replicas'. Start, end and answers are
    those of the whole run, which its own process records."""

    def __init__(self, observer: Observer, name: str) -> None:
        self._observer, self._name = observer, name

    def on_event(self, event: RunEvent) -> None:
        match event:
            case TurnFinished(place=place) | TurnRepeated(place=place):
                event = replace(event, place=replace(place, replica=self._name + place.replica))
            case ReplicaReady(replica=replica) | ReplicaLost(replica=replica) | ReplicaRetired(replica=replica):
                event = replace(event, replica=self._name + replica)
            case _:
                return
        self._observer.on_event(event)


def _part(fields: Message) -> ClusterPart:
    nodes = fields["nodes"]
    return ClusterPart(**{**fields, "nodes": None if nodes is None else tuple(nodes)})


if __name__ == "__main__":
    sys.exit(main())
