"""A server whose actors a batch driver uses, too: one process that can be asked both ways, so that nothing but the way
differs. The server is that of `latentmas serve`; the driver is what `LatentMAS.map` and `ask` do."""

import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.serving.cpu_parts import CpuParts, cpu_parts
from latentmas_ray.bench.side_process import SideProcess, serve_side
from latentmas_ray.errors import LatentMASError, RunError

if TYPE_CHECKING:
    from latentmas_ray.runs.run_events import RunEvent
    from latentmas_ray.serve.teams.served import ServedTeams
    from latentmas_ray.system.call import Call

_HOST = "127.0.0.1"
_MOST = 1_000_000  # the clients bound what runs at the same time
_DRAIN_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class BothWays:
    """What the process says once its actors are up."""

    port: int
    pid: int
    model: str  # the name of the team, for clients
    most_questions: int  # unanswered, which the driver has at the same time

    @property
    def url(self) -> str:
        """The base URL of the server."""
        return f"http://{_HOST}:{self.port}/v1"


@dataclass(frozen=True, kw_only=True)
class AskAll:
    """Asks the driver these questions, all at once; it answers with a `Driven`."""

    texts: tuple[str, ...]
    marks: tuple[int, ...] = ()  # after so many answers it notes the CPU seconds


@dataclass(frozen=True, kw_only=True)
class Driven:
    """The answers, in the order of the questions, and the CPU seconds at the marks."""

    answers: tuple[str, ...]
    at_marks: tuple[CpuParts, ...]


@dataclass(frozen=True, kw_only=True)
class AskFirst:
    """Asks the driver one question; it answers with the seconds until an observer has its first token."""

    text: str


def both_ways(fields: Mapping[str, Any]) -> SideProcess:
    """Start the process with these fields of `RunConfig`; its first message is a `BothWays`."""
    return SideProcess("server's", _serve, dict(fields), join_seconds=_DRAIN_SECONDS)


def _serve(name: str, fields: Mapping[str, Any], connection: Connection) -> None:
    """Serve in this thread, and answer the messages of the benchmark in another one until it is over."""
    from latentmas_ray.config import make_config
    from latentmas_ray.serve.admission.limits import ServeLimits
    from latentmas_ray.serve.admission.logs import log_requests
    from latentmas_ray.serve.app import make_app
    from latentmas_ray.serve.server import run_server
    from latentmas_ray.serve.teams.served import ServedTeams

    sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115  the log of requests is written, and read by none
    log_requests()
    ready: queue.SimpleQueue[int | LatentMASError] = queue.SimpleQueue()
    teams: list[ServedTeams] = []

    def start() -> tuple[BothWays, Callable[[Any], Any]]:
        if isinstance(port := ready.get(), LatentMASError):
            raise port
        driver = _BatchDriver(teams[0])
        model, most = next(iter(teams[0].models)), driver.most_questions
        return BothWays(port=port, pid=os.getpid(), model=model, most_questions=most), driver.answer

    def answer_all() -> None:
        serve_side(name, connection, start)
        os.kill(os.getpid(), signal.SIGTERM)  # drains the server

    answering = threading.Thread(target=answer_all, name="driver")
    answering.start()
    try:
        teams.append(ServedTeams(make_config({"temperature": 0, **fields})))
        limits = ServeLimits(max_running=_MOST, max_waiting=_MOST)
        run_server(
            make_app(teams[0], limits, loads=False),
            host=_HOST,
            port=0,
            drain_seconds=_DRAIN_SECONDS,
            send_seconds=limits.send_seconds,
            tell=lambda line: None,
            on_ready=ready.put,
        )
    except LatentMASError as error:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        ready.put(error)
    else:
        ready.put(RunError("the server ended while it started"))
    answering.join()


class _BatchDriver:
    """Asks the first model of some teams in the caller's thread."""

    def __init__(self, teams: "ServedTeams") -> None:
        self._teams = teams
        self._model = next(iter(teams.models.values()))

    @property
    def most_questions(self) -> int:
        """Unanswered questions that it has at the same time."""
        batch_size, agents = self._model.config.batch_size, self._model.topology.agents
        settings = self._call(["?"]).request.settings
        most = settings.questions_in_flight(agents, self._teams.info.writes_at_once, batch_size)
        return most or settings.batches_in_flight(len(agents)) * batch_size

    def answer(self, message: AskAll | AskFirst) -> Driven | float:
        """Return what the message asks for. Raises RunError for a question without an answer."""
        if isinstance(message, AskAll):
            return self._drive(self._call(message.texts), message.marks)
        first = _FirstToken()
        begin = time.monotonic()
        self._drive(self._call([message.text], first))
        if first.at is None:
            raise RunError(f"the answer to {message.text!r} has no token")
        return first.at - begin

    def _call(self, texts: Sequence[str], observer: "_FirstToken | None" = None) -> "Call":
        from latentmas_ray.system.serving import CallSettings
        from latentmas_ray.tasks import questions_from

        questions = questions_from(texts)
        streamed = () if observer is None else [one.id for one in questions]
        return self._teams.fleet.call(self._model, CallSettings(), questions, observer, streamed=streamed)

    def _drive(self, call: "Call", marks: Sequence[int] = ()) -> Driven:
        from latentmas_ray.runs.results import Answer

        results, at_marks = {}, []
        for result in self._teams.fleet.run(call):
            results[result.id] = result
            if len(results) in marks:
                at_marks.append(cpu_parts(os.getpid()))
        answers = [one for question in call.questions if isinstance(one := results[question.id], Answer)]
        if len(answers) < len(call.questions):
            raise RunError(f"{len(call.questions) - len(answers)} of {len(call.questions)} questions had no answer")
        return Driven(answers=tuple(one.answer for one in answers), at_marks=tuple(at_marks))


class _FirstToken:
    """Observes when the first token comes: with the whole answer, if that is there before a report of its tokens."""

    def __init__(self) -> None:
        self.at: float | None = None  # on the monotonic clock

    def on_event(self, event: "RunEvent") -> None:
        from latentmas_ray.runs.run_events import QuestionAnswered, TextWritten

        if self.at is None and isinstance(event, TextWritten | QuestionAnswered):
            self.at = time.monotonic()
