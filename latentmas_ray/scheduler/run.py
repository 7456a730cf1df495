"""A run: the questions of one caller, in a scheduler that serves several callers."""

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from copy import copy
from dataclasses import dataclass, field, replace

from latentmas_ray.engine.turn import GivenMemory, NewTokens, OnTokens, TurnRequest
from latentmas_ray.runs.grading import Grader, Grading
from latentmas_ray.runs.results import Answer, Failure, ReturnedMemory
from latentmas_ray.runs.run_events import Observer, TextWritten
from latentmas_ray.scheduler.answers import FinishedQuestions
from latentmas_ray.scheduler.batch import Batch
from latentmas_ray.scheduler.batch_state import BatchState
from latentmas_ray.scheduler.metrics import MetricSink, RunCounters, RunMetrics
from latentmas_ray.scheduler.protocol import CapacityChanged, RuntimeInfo, TokensWritten, TurnHandle
from latentmas_ray.scheduler.retry import RetryState
from latentmas_ray.scheduler.transfer_choice import choose_transfers, translated_links
from latentmas_ray.scheduler.turns import DriverSettings, Goal, TopologyIndex
from latentmas_ray.tasks import grade_unconfined
from latentmas_ray.topology.agent import Topology
from latentmas_ray.topology.team import Team, describe_translations

Result = Answer | Failure | ReturnedMemory


class WithdrawnQuestions:
    """Questions of one run that its caller does not want any more. Any thread may add some; the scheduler ends them
    within a step, and their results do not come."""

    def __init__(self) -> None:
        self._new: deque[str] = deque()
        self._all: set[str] = set()

    def add(self, question_id: str) -> None:
        """Withdraw a question. Safe to call twice."""
        self._all.add(question_id)
        self._new.append(question_id)

    def take(self) -> set[str]:
        """Return what was added since the last call."""
        return {self._new.popleft() for _ in range(len(self._new))}

    def __contains__(self, question_id: object) -> bool:
        return question_id in self._all


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """A request to run batches through a topology.

    `num_done` questions had an answer before; they are only part of the progress. With goal `think` the results are
    `ReturnedMemory`, the memory that the answering agent would read, without `given`; with `answer-from-memory` it
    reads `given`. With the other goals every agent reads `given` first (`GivenMemory.is_first`). With `keeps_memory`
    answers contain the memory that the answering agent read.
    """

    topology: Topology
    settings: DriverSettings
    batches: Sequence[Batch]
    observer: Observer | None = None
    num_done: int = 0
    goal: Goal = "answer"
    given: GivenMemory | None = None
    keeps_memory: bool = False
    withdrawn: WithdrawnQuestions | None = None  # None: the caller withdraws none
    team: Team = field(default_factory=lambda: Team({}))  # the model of each agent; empty: all have the same


class Run:
    """The state of one request: batches that wait, batches in flight, and results that the caller has not fetched."""

    def __init__(
        self,
        request: RunRequest,
        info: RuntimeInfo,
        *,
        metrics: MetricSink,
        clock: Callable[[], float],
        grader: Grader,
        number_offset: int,
    ) -> None:
        """`number_offset` is added to the numbers of the batches, so that they differ between concurrent runs."""
        self.request = request
        self.settings = request.settings
        self.topology = request.topology
        self.topology_index = TopologyIndex.of(request.topology, request.goal)
        self.translated = translated_links(request.team, self.topology_index, info.spec_of)
        self.transfer_choices = choose_transfers(
            self.settings.transfer,
            self.topology_index,
            info.transfer_costs,
            bytes_per_token=info.sent_bytes_per_token or info.bytes_per_token,
            translated=self.translated,
        )
        batches = _questions_of(request, self.topology_index, info) or request.batches
        self.batches = [replace(batch, number=batch.number + number_offset) for batch in batches]
        self.limit_in_flight(self.settings.replicas, info.writes_at_once)
        self.queue = deque(RetryState(batch) for batch in self.batches)
        self.batch_states: set[BatchState] = set()
        self._writing: set[BatchState] = set()  # whose texts grow; some may be over
        self.grading: Grading[FinishedQuestions] = Grading(
            grade_unconfined if self.settings.unsafe_programs else grader,
            votes=self.settings.votes(self.topology_index),
        )
        self.results: deque[Result] = deque()
        self.error: BaseException | None = None  # the error that ended the run; raised after the last result
        self.is_over = False
        self.is_cancelled = False  # the next step closes the run
        self._next: BatchState | None = None  # the first batch of the queue, once its prompts are rendered
        self._finished_ids: set[str] = set()
        num_open = sum(len(batch.open_questions) for batch in request.batches)
        self.counters = RunCounters(
            request.observer,
            RunMetrics(metrics),
            clock,
            request.num_done + num_open,
            request.num_done,
            on_error=self._fail_by_observer,
        )

    def limit_in_flight(self, num_replicas: int, writes_at_once: Mapping[str, int]) -> None:
        """Set how much may be in flight with so many replicas of the agent with the most, and `writes_at_once` as in
        `RuntimeInfo`."""
        self.settings = replace(self.settings, replicas=num_replicas)
        agents = self.topology_index.agents
        largest = max((len(batch.questions) for batch in self.batches), default=1)
        self.max_batches_in_flight = self.settings.batches_in_flight(len(agents))
        # None: batches are counted, not questions.
        self.max_questions_in_flight = self.settings.questions_in_flight(agents, writes_at_once, largest)
        # As many as can be in flight: results of a slow caller must not fill the memory of this process.
        self._max_results = max(self.max_questions_in_flight or 0, self.max_batches_in_flight * largest)

    @property
    def is_idle(self) -> bool:
        """Whether no batch waits or is in flight, and no answer is being graded."""
        return not (self.queue or self.batch_states or len(self.grading))

    @property
    def is_blocked_by_caller(self) -> bool:
        """Whether nothing is in flight, and no batch can start before the caller fetches some results."""
        is_full = len(self.results) >= self._max_results
        return is_full and not (self.is_cancelled or self.batch_states or len(self.grading))

    def describe(self, runtime: str) -> str:
        """Return one line for the log: the runtime, where memory is translated, and the transfer modes if they were
        chosen by measured costs."""
        said = [runtime, *describe_translations(self.topology, self.translated, self.request.team)]
        if self.settings.transfer == "auto":
            said += map(str, self.transfer_choices.values())
        return "; ".join(said)

    @property
    def runs_alone(self) -> bool:
        """Whether a batch is in flight that must run alone: it is then the only one of all runs."""
        return len(self.batch_states) == 1 and next(iter(self.batch_states)).retry.runs_alone

    def others_vote(self, agent: str) -> bool:
        """Whether an agent answers, and others do, too: a question may do without its answer."""
        answering = self.topology_index.answering
        return agent in answering and len(answering) > 1

    @property
    def num_unanswered(self) -> int:
        """How many questions in flight agents still work on."""
        return sum(batch_state.num_unanswered for batch_state in self.batch_states)

    def next_batch(self, num_of_others: int = 0) -> BatchState | None:
        """Return the first batch of the queue, rendered; None if no batch waits, too many batches or questions are in
        flight or results unfetched, or the run is cancelled. Raises TopologyError for a prompt that cannot be rendered.

        `num_of_others` is the number of unanswered questions of other runs: agents that write a limited number of
        questions at the same time write those of all runs, and every run may have one batch in flight whatever the
        others have."""
        if not self.queue or self.is_cancelled or len(self.results) >= self._max_results:
            return None
        if self._is_full(num_of_others):
            return None
        if self._next is None:
            self._next = BatchState(
                self.queue[0],
                self.topology_index,
                self.settings,
                {agent: choice.mode for agent, choice in self.transfer_choices.items()},
                translated=self.translated,
                given=self.request.given,
                keeps_memory=self.request.keeps_memory or self.request.goal == "think",
            )
        return self._next

    def _is_full(self, num_of_others: int) -> bool:
        if self.max_questions_in_flight is None:
            return len(self.batch_states) >= self.max_batches_in_flight
        num_in_flight = num_of_others + self.num_unanswered
        num_next = len(self.queue[0].batch.open_questions)
        return bool(self.batch_states) and num_in_flight + num_next > self.max_questions_in_flight

    def admit(self, batch_state: BatchState) -> None:
        """Move the first batch of the queue to the batches in flight."""
        self.batch_states.add(batch_state)
        self.queue.popleft()
        self._next = None

    def retry(self, attempts: Sequence[RetryState]) -> None:
        """Put these batches at the front of the queue."""
        self._next = None
        self.queue.extendleft(reversed(attempts))

    def add_result(self, result: Result) -> bool:
        """Add a result for the caller. Returns False, and adds nothing, if its question has a result already."""
        if result.id in self._finished_ids:
            return False
        self._finished_ids.add(result.id)
        self.results.append(result)
        return True

    def add_failures(self, agent: str, reasons: Mapping[str, str], too_long: Collection[str] = ()) -> None:
        """Add questions that have failed for good at `agent` to the results; `reasons` is by question, `too_long` are
        those that need too many positions."""
        for name, reason in reasons.items():
            failure = Failure(id=name, agent=agent, error=reason, too_long=name in too_long)
            if self.add_result(failure):
                self.counters.count_failure(failure)

    def note_tokens(self, batch_state: BatchState, event: TokensWritten) -> None:
        """Note how many tokens of a text of a batch are written; the agent's turn is not over."""
        agent, name = event.handle.agent, event.question_id
        batch_state.note_tokens(agent, name, event.num_tokens)
        self._writing.add(batch_state)
        if event.new is not None:
            self.stream_tokens(agent, name, event.new)

    def listeners(self, request: TurnRequest) -> tuple[OnTokens, ...]:
        """Return what gets the tokens of a turn's streamed questions; nothing if there are none."""
        if not request.streamed:
            return ()
        return (lambda question_id, new: self.stream_tokens(request.agent, question_id, new),)

    def stream_tokens(self, agent: str, question_id: str, new: NewTokens) -> bool:
        """Send tokens that an answering agent has written to the observer; return whether the question is still
        wanted."""
        if self.is_cancelled or (self.request.withdrawn is not None and question_id in self.request.withdrawn):
            return False
        if new.token_ids:
            self.counters.send(TextWritten(agent=agent, question_id=question_id, new=new))
        return True

    def withdraw(self, ids: Set[str]) -> None:
        """Let no result of these questions come, and start none of them."""
        self._next = None
        self._finished_ids |= ids
        for _ in range(len(self.queue)):
            retry = self.queue.popleft()
            batch = retry.batch
            retry = replace(retry, batch=replace(batch, done=batch.done | (ids & {*batch.question_ids})))
            if retry.batch.open_questions:
                self.queue.append(retry)

    def send_progress(self, memory_bytes: int) -> None:
        """Send a snapshot to the observer; `memory_bytes` is the memory in flight of all runs."""
        self._writing = {one for one in self._writing if one.is_writing and one in self.batch_states}
        self.counters.send_progress(
            batches_in_flight=len(self.batch_states),
            memory_bytes=memory_bytes,
            num_writing=sum(batch_state.num_writing for batch_state in self._writing),
            num_written=sum(batch_state.num_written for batch_state in self._writing),
        )

    def reset(self) -> None:
        """Put all batches with questions that have no result back into the queue; no turn of the run is in flight."""
        self._next = None
        self.batch_states.clear()
        self._writing.clear()
        rest = [
            replace(batch, done=(batch.done | self._finished_ids) & {question.id for question in batch.questions})
            for batch in self.batches
        ]
        self.queue = deque(RetryState(batch) for batch in rest if batch.open_questions)

    def fail(self, error: BaseException) -> None:
        """Store a copy of the first error, which the caller raises: several threads may raise the same error."""
        if self.error is None:
            self.error = copy(error)
            self.error.__cause__ = error.__cause__

    def _fail_by_observer(self, error: Exception) -> None:
        """Cancel the run with an error of its observer, which only the caller of this run raises."""
        if self.error is None:
            self.error = error
        self.is_cancelled = True

    def clear(self) -> None:
        """Drop all batches that wait or are in flight."""
        self._next = None
        self.batch_states.clear()
        self._writing.clear()
        self.queue.clear()


def change_capacity(info: RuntimeInfo, event: CapacityChanged, runs: Iterable[Run]) -> RuntimeInfo:
    """Tell these runs how much may be in flight now; return `info` for those that start later."""
    for run in runs:
        run.limit_in_flight(event.num_replicas, event.writes_at_once)
    return replace(info, writes_at_once=event.writes_at_once)


class TurnsInFlight:
    """The turns in flight, each with its run and its batch, and how many each agent has."""

    def __init__(self) -> None:
        self._found: dict[TurnHandle, tuple[Run, BatchState]] = {}
        self._by_agent: Counter[str] = Counter()

    def add(self, handle: TurnHandle, run: Run, batch_state: BatchState) -> None:
        """Add a turn that was submitted."""
        self._found[handle] = run, batch_state
        self._by_agent[handle.agent] += 1

    def get(self, handle: TurnHandle) -> tuple[Run, BatchState] | None:
        """Return the run and the batch of a turn; None if it is not in flight."""
        return self._found.get(handle)

    def take(self, handle: TurnHandle) -> tuple[Run, BatchState] | None:
        """Like `get`, for a turn that is in flight no longer."""
        if (found := self._found.pop(handle, None)) is not None:
            self._by_agent[handle.agent] -= 1
        return found

    def num_by_agent(self) -> Counter[str]:
        """Return the number of turns of each agent that has some."""
        return +self._by_agent

    def clear(self) -> None:
        """Remove all turns."""
        self._found.clear()
        self._by_agent.clear()

    def __len__(self) -> int:
        return len(self._found)

    def __iter__(self) -> Iterator[TurnHandle]:
        return iter(self._found)

    def __contains__(self, handle: TurnHandle) -> bool:
        return handle in self._found


def _questions_of(request: RunRequest, index: TopologyIndex, info: RuntimeInfo) -> list[Batch]:
    """Return one batch for each open question, if every agent writes text, question by question, and some agent reads
    another's texts: so that no question waits for its batch at each agent. Else nothing."""
    agents = index.agents
    if len(agents) == 1 or request.settings.max_batches_in_flight is not None:
        return []
    if not all(agent.thinks == "text" and agent.name in info.writes_at_once for agent in agents):
        return []
    largest = max((len(batch.questions) for batch in request.batches), default=1)
    return [
        Batch(number=batch.number * largest + place, questions=(question,))
        for batch in request.batches
        for place, question in enumerate(batch.questions)
        if question.id not in batch.done
    ]
