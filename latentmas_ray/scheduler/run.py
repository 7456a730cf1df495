"""One caller's questions on their way through a scheduler that serves several callers."""

from collections import deque
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace

from latentmas_ray.engine.turn import GivenMemory
from latentmas_ray.runs.grading import Grader, Grading
from latentmas_ray.runs.results import Answer, Failure, ReturnedMemory
from latentmas_ray.runs.run_events import Observer
from latentmas_ray.scheduler.batch import Batch
from latentmas_ray.scheduler.batch_state import BatchState
from latentmas_ray.scheduler.metrics import MetricSink, RunCounters, RunMetrics
from latentmas_ray.scheduler.protocol import RuntimeInfo
from latentmas_ray.scheduler.retry import RetryState
from latentmas_ray.scheduler.transfer_choice import choose_transfers
from latentmas_ray.scheduler.turns import DriverSettings, Goal, TopologyIndex
from latentmas_ray.topology.agent import Topology

Result = Answer | Failure | ReturnedMemory


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """What a caller wants: these batches through this topology.

    `num_done` questions had an answer before; they only count for the progress. With the goal `think` the results are
    `ReturnedMemory`, what the answering agent would read; with `answer-from-memory` it reads `given`. With
    `keeps_memory` answers bring the memory that they were made from.
    """

    topology: Topology
    settings: DriverSettings
    batches: Sequence[Batch]
    observer: Observer | None = None
    num_done: int = 0
    goal: Goal = "answer"
    given: GivenMemory | None = None
    keeps_memory: bool = False
    model: str = ""  # its name, for the memory that is kept


class Run:
    """The state of one request: what waits, what is in flight, what has finished and was not fetched."""

    def __init__(
        self,
        request: RunRequest,
        info: RuntimeInfo,
        *,
        metrics: MetricSink,
        clock: Callable[[], float],
        grader: Grader,
        first_batch: int,
    ) -> None:
        """`first_batch` is added to the numbers of the batches, which differ between runs that go on at one time."""
        self.request = request
        self.settings = request.settings
        self.topology = request.topology
        self.route = TopologyIndex.of(request.topology, request.goal)
        self.choices = choose_transfers(
            self.settings.transfer,
            self.route,
            info.handover_costs,
            bytes_per_token=info.sent_bytes_per_token or info.bytes_per_token,
        )
        self.max_flights = self.settings.batches_in_flight(len(self.route.agents))
        self.batches = [replace(batch, number=batch.number + first_batch) for batch in request.batches]
        self.queue = deque(RetryState(batch) for batch in self.batches)
        self.batch_states: set[BatchState] = set()
        self.grading: Grading[tuple[BatchState, float]] = Grading(grader)
        self.results: deque[Result] = deque()
        self.error: BaseException | None = None  # what ended it; raised once its results are fetched
        self.is_over = False
        self.is_cancelled = False  # the next step ends it
        self._next: BatchState | None = None  # the head of the queue, once it is rendered
        self._settled: set[str] = set()
        # As many as are under way: a caller that fetches slowly must not have all memory filled with what it gets.
        self._max_results = self.max_flights * max((len(batch.questions) for batch in request.batches), default=1)
        num_open = sum(len(batch.open_questions) for batch in request.batches)
        self.tally = RunCounters(
            request.observer,
            RunMetrics(metrics),
            clock,
            request.num_done + num_open,
            request.num_done,
            on_error=self._break_off,
        )

    @property
    def is_idle(self) -> bool:
        """Nothing waits, and nothing is under way."""
        return not (self.queue or self.batch_states or len(self.grading))

    @property
    def is_held_back(self) -> bool:
        """Nothing is under way, and nothing begins before its caller has fetched some of its results."""
        is_full = len(self.results) >= self._max_results
        return is_full and not (self.is_cancelled or self.batch_states or len(self.grading))

    def describe(self, runtime: str) -> str:
        """One line for the log: the runtime, and how memory travels where that was chosen by measured costs."""
        if self.settings.transfer != "auto" or not self.choices:
            return runtime
        return "; ".join([runtime, *map(str, self.choices.values())])

    def next_flight(self) -> BatchState | None:
        """The head of the queue, rendered; None where nothing waits, enough is under way or not fetched, or its caller
        is gone. Raises TopologyError for a prompt that cannot be rendered."""
        is_full = len(self.batch_states) >= self.max_flights or len(self.results) >= self._max_results
        if not self.queue or is_full or self.is_cancelled:
            return None
        if self._next is None:
            self._next = BatchState(
                self.queue[0],
                self.route,
                self.settings,
                {agent: choice.handover for agent, choice in self.choices.items()},
                given=self.request.given,
                keeps_memory=self.request.keeps_memory or self.request.goal == "think",
            )
        return self._next

    def admit(self, batch_state: BatchState) -> None:
        """The head of the queue is on its way."""
        self.batch_states.add(batch_state)
        self.queue.popleft()
        self._next = None

    def retry(self, attempts: Sequence[RetryState]) -> None:
        """These go before all that waits."""
        self._next = None
        self.queue.extendleft(reversed(attempts))

    def settle(self, result: Result) -> bool:
        """Hand out a result; False, and nothing happens, if its question has one already."""
        if result.id in self._settled:
            return False
        self._settled.add(result.id)
        self.results.append(result)
        return True

    def start_over(self) -> None:
        """Nothing of it is in flight any more: what has no result yet waits again."""
        self._next = None
        self.batch_states.clear()
        rest = [replace(batch, done=batch.done | self._settled) for batch in self.batches]
        self.queue = deque(RetryState(batch) for batch in rest if batch.open_questions)

    def fail(self, error: BaseException) -> None:
        """Keep a copy of the first error, for its caller to raise: several threads may raise the same one."""
        if self.error is None:
            self.error = copy(error)
            self.error.__cause__ = error.__cause__

    def _break_off(self, error: Exception) -> None:
        """Its observer raised this, which is raised in its caller's loop and in no other."""
        if self.error is None:
            self.error = error
        self.is_cancelled = True

    def drop(self) -> None:
        """Nothing of it waits any more."""
        self._next = None
        self.batch_states.clear()
        self.queue.clear()
