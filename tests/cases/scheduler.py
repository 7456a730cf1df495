"""Questions, topologies and shortcuts for the tests of the scheduler."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from typing import Any

from latentmas_ray.runs.grading import Grader
from latentmas_ray.runs.results import Answer, Failure
from latentmas_ray.runs.run_events import (
    QuestionAnswered,
    QuestionFailed,
    RunEnded,
    RunEvent,
    RunProgress,
    RunStarted,
    TurnRepeated,
)
from latentmas_ray.scheduler.batch import Batch, plan_batches
from latentmas_ray.scheduler.loop import Scheduler
from latentmas_ray.scheduler.run import RunRequest
from latentmas_ray.scheduler.shared import SharedScheduler
from latentmas_ray.scheduler.turns import DriverSettings
from latentmas_ray.tasks import grade
from latentmas_ray.tasks.question import Question
from latentmas_ray.topology.agent import Agent, Topology
from tests.cases.fake_runtime import FakeRuntime


def make_questions(count: int, *, sizes: Sequence[int] = ()) -> list[Question]:
    texts = [f"question {index}".ljust(sizes[index] if sizes else 0, "x") for index in range(count)]
    return [
        Question(id=f"q{index}", question=text, kind="text", gold=None, record={"question": text})
        for index, text in enumerate(texts)
    ]


def agent(name: str, *reads: str, thinks: Any = "latent", prompt: str = "{{ question }}", **more: Any) -> Agent:
    return Agent(name=name, prompt=prompt, thinks=thinks, reads=reads, **more)


def topology(*agents: Agent) -> Topology:
    return Topology(name="made-up", agents=agents)


CHAIN = topology(agent("planner"), agent("critic", "planner"), agent("judger", "critic", thinks="text"))
PARALLEL = topology(
    agent("math"), agent("code"), agent("science"), agent("summariser", "math", "code", "science", thinks="text")
)
DIAMOND = topology(
    agent("root"), agent("left", "root"), agent("right", "root"), agent("end", "left", "right", thinks="text")
)
TALK_PROMPT = "{{ question }} [{{ context }}]"
TALK = topology(
    agent("planner", thinks="text"),
    agent("critic", "planner", thinks="text", prompt=TALK_PROMPT),
    agent("judger", "planner", "critic", thinks="text", prompt=TALK_PROMPT),
)
MIXED = topology(
    agent("scout", thinks="text"),
    agent("thinker"),
    agent("planner", "thinker"),
    agent("judger", "scout", "planner", thinks="text", prompt=TALK_PROMPT),
)
SINGLE = topology(agent("solver", thinks="text"))
ALL = {"chain": CHAIN, "parallel": PARALLEL, "diamond": DIAMOND, "talk": TALK, "mixed": MIXED, "single": SINGLE}


class Recorder:
    """An observer that stores all events."""

    def __init__(self) -> None:
        self.started: tuple[str, int, int] | None = None
        self.progress: list[RunProgress] = []
        self.answers: list[Answer] = []
        self.failures: list[Failure] = []
        self.faults: list[str] = []
        self.times_finished = 0

    def on_event(self, event: RunEvent) -> None:
        match event:
            case RunStarted():
                self.started = (event.description, event.num_questions, event.num_done)
            case RunProgress():
                self.progress.append(event)
            case QuestionAnswered(answer=answer):
                self.answers.append(answer)
            case QuestionFailed(failure=failure):
                self.failures.append(failure)
            case TurnRepeated(reason=reason):
                self.faults.append(reason)
            case RunEnded():
                self.times_finished += 1


class Driver:
    """One topology with one observer on a scheduler of its own."""

    def __init__(self, scheduler: SharedScheduler, of: Topology, settings: DriverSettings, observer: Recorder) -> None:
        self.scheduler = scheduler
        self._of, self._settings, self._observer = of, settings, observer

    def request(self, batches: Sequence[Batch], **more: Any) -> RunRequest:
        return RunRequest(topology=self._of, settings=self._settings, batches=batches, observer=self._observer, **more)

    @staticmethod
    def observed(request: RunRequest, observer: Recorder) -> RunRequest:
        return replace(request, observer=observer)

    def run(self, batches: Sequence[Batch], *, num_done: int = 0) -> Generator[Answer | Failure, None, None]:
        return self.scheduler.run(self.request(batches, num_done=num_done))  # type: ignore[return-value]


def make_driver(
    runtime: FakeRuntime, of: Topology, observer: Recorder | None = None, grader: Grader = grade, **settings: Any
) -> Driver:
    limit = settings.get("memory_limit_bytes")
    scheduler = Scheduler(runtime, info=runtime.start(), memory_limit_bytes=limit, clock=runtime.clock, grader=grader)
    return Driver(SharedScheduler(scheduler), of, DriverSettings(**settings), observer or Recorder())


def drain(results: Iterator[Answer | Failure], into: list[str]) -> None:
    """Append the ids of all results to `into`, also of those before an error."""
    into.extend(result.id for result in results)


def run_all(
    runtime: FakeRuntime, of: Topology, questions: Sequence[Question], *, batch_size: int = 2, **settings: Any
) -> tuple[dict[str, Answer], list[Failure]]:
    """Return all results of one run; checks that no handle and no segment is left."""
    results = list(make_driver(runtime, of, **settings).run(plan_batches(questions, batch_size)))
    assert not runtime.handles
    assert not runtime.segments
    answers = {result.id: result for result in results if isinstance(result, Answer)}
    failures = [result for result in results if isinstance(result, Failure)]
    assert len(answers) + len(failures) == len(results)
    return answers, failures
