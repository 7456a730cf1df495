"""One schedule: the run is started, disturbed, watched to its end, and judged."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.multinode.campaign.faults import Faults
from tests.multinode.campaign.log import Outcome, Pause, Verdict, judge
from tests.multinode.campaign.nodes import HEAD, Nodes, dump_stacks
from tests.multinode.campaign.schedule import Fault, Schedule
from tests.multinode.machines import kill_session
from tests.ray.actor_cases import timeless
from tests.ray.command_cases import read_rows

_POLL_SECONDS = 0.1
_LAST_CHARACTERS = 600  # of what the run said, in an outcome
# A run that is stopped to be looked at prints where each of its threads is.
_TELLING = {"PYTHONFAULTHANDLER": "1"}


class Driver:
    """The run's driver on the head, and those that continue it."""

    def __init__(self, nodes: Nodes, command: Sequence[str], folder: Path) -> None:
        """`command` evaluates on the cluster, into `folder` / "run"; what it says goes to `folder`."""
        self._nodes = nodes
        self._command = [*command, "--address", nodes.cluster.address, "--output", str(folder / "run")]
        self._folder = folder
        self._num_starts = 0
        self._process = self._start([])

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    @property
    def said(self) -> str:
        """What all of them have printed."""
        return "".join(self._log(number).read_text(errors="replace") for number in range(self._num_starts))

    def kill_and_resume(self) -> None:
        """It dies without a word, and another continues."""
        kill_session(self._process)
        self._process = self._start(["--resume"])

    def rows(self) -> list[dict[str, Any]]:
        """The answers so far."""
        return read_rows(self._folder / "run")

    def end(self) -> None:
        """Kill it, if it is not over."""
        kill_session(self._process)

    def tell_stacks(self) -> None:
        """Write where the driver and all actors are, and end the driver."""
        processes = self._nodes.cluster.machines[HEAD].processes()
        own = [pid for pid, name in processes.items() if " eval " in name and "nsenter" not in name]
        dump_stacks([*own, *self._nodes.actors()], self._folder / "stacks.txt")
        for pid in own:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGABRT)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=10)

    def _start(self, more: Sequence[str]) -> subprocess.Popen[str]:
        number, self._num_starts = self._num_starts, self._num_starts + 1
        cluster = self._nodes.cluster
        environment = {**cluster.environment, **_TELLING}
        return cluster.machines[HEAD].start([*self._command, *more], environment=environment, output=self._log(number))

    def _log(self, number: int) -> Path:
        return self._folder / f"said.{number}.txt"


class Watch:
    """Follows a run: when answers came, when faults happened, and whether anything still does."""

    def __init__(self, quiet_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """After `quiet_seconds` without an answer or a fault a run hangs."""
        self._quiet_seconds = quiet_seconds
        self._clock = clock
        self._num_answers = 0
        self._happened_at = clock()
        self._quiet_since = clock()  # since the last answer or fault
        self._recent: list[tuple[Fault, float]] = []  # faults with no other fault since an answer, and when they were
        self._gaps: list[float] = []  # times without an answer since these
        self._first: float | None = None  # when the first answer since these came
        self.pauses: list[Pause] = []

    @property
    def num_answers(self) -> int:
        """As many as there were at the last look."""
        return self._num_answers

    @property
    def hangs(self) -> bool:
        """Whether nothing has happened for too long."""
        return self._clock() - self._happened_at > self._quiet_seconds

    def see_answers(self, count: int) -> None:
        """There are so many now."""
        if count > self._num_answers:
            now = self._clock()
            self._gaps.append(now - self._quiet_since)
            self._first = now if self._first is None else self._first
            self._num_answers, self._happened_at, self._quiet_since = count, now, now

    def see_fault(self, fault: Fault) -> None:
        """It has just happened."""
        if self._first is not None:
            self.end()
        self._recent.append((fault, self._clock()))
        self._quiet_since = self._recent[0][1]
        self.see_something()

    def see_something(self) -> None:
        """A fault was undone, say."""
        self._happened_at = self._clock()

    def end(self) -> None:
        """What comes now has other causes."""
        for fault, since in self._recent:
            seconds = None if self._first is None else round(self._first - since, 1)
            longest = None if seconds is None else round(max([seconds, *self._gaps[1:]]), 1)
            self.pauses.append(Pause(kind=fault.kind, seconds=seconds, longest=longest))
        self._recent, self._gaps, self._first = [], [], None


def run_schedule(
    nodes: Nodes,
    schedule: Schedule,
    command: Sequence[str],
    undisturbed: Sequence[Mapping[str, Any]],
    folder: Path,
    quiet_seconds: float,
) -> Outcome:
    """Run `command` through the faults of a schedule on whole nodes, and judge how it ended.

    `folder` gets the run and what was said. The nodes have to be healed afterwards. Raises nothing for a bad end.
    """
    started_at = time.monotonic()
    driver, watch = Driver(nodes, command, folder), Watch(quiet_seconds)
    faults = Faults(nodes, driver.kill_and_resume)
    to_come = list(schedule.faults)
    try:
        while driver.exit_code is None and not watch.hangs:
            watch.see_answers(len(driver.rows()))
            if faults.end_some():
                watch.see_something()
            if to_come and watch.num_answers >= to_come[0].after and nodes.actors() and faults.start(to_come[0]):
                watch.see_fault(to_come.pop(0))
            time.sleep(_POLL_SECONDS)
        hung = driver.exit_code is None
        if hung:
            driver.tell_stacks()
        watch.end()
        verdict, why = _judge(driver, undisturbed, hung=hung, quiet_seconds=quiet_seconds)
    finally:
        driver.end()
        faults.end_all()
    return Outcome(
        seed=schedule.seed,
        schedule=str(schedule),
        verdict=verdict,
        why=why,
        pauses=watch.pauses,
        not_reached=[str(fault) for fault in to_come],
        num_retries=driver.said.count("continuing"),
        seconds=round(time.monotonic() - started_at, 1),
        load=round(os.getloadavg()[0], 1),
    )


def _judge(
    driver: Driver, undisturbed: Sequence[Mapping[str, Any]], *, hung: bool, quiet_seconds: float
) -> tuple[Verdict, str]:
    said, rows = driver.said, driver.rows()
    last = said[-_LAST_CHARACTERS:].strip()
    if hung:
        waited = f"nothing happened for {quiet_seconds:.0f} s after {len(rows)} of {len(undisturbed)} answers"
        return "hung", f"{waited}; it said last: {last}"
    if driver.exit_code:
        return "failed", f"exit code {driver.exit_code} after {len(rows)} of {len(undisturbed)} answers: {last}"
    if "Traceback" in said:
        return "failed", f"it printed a traceback: {said[said.index('Traceback') :][:_LAST_CHARACTERS]}"
    return judge([timeless(row) for row in rows], undisturbed)
