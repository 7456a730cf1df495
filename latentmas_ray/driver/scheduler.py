"""The event loop: admits batches, submits turns as soon as they can run, collects reports, retries what failed."""

import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress

from latentmas_ray.driver.admission import MemoryLedger
from latentmas_ray.driver.answers import make_answers
from latentmas_ray.driver.batch import Batch
from latentmas_ray.driver.cause import Cause
from latentmas_ray.driver.flight import Attempt, Flight, Route
from latentmas_ray.driver.grading import Grader, Grading
from latentmas_ray.driver.handover import choose_handovers
from latentmas_ray.driver.metrics import Load, MetricSink, NoMetrics, RunMetrics
from latentmas_ray.driver.protocol import Runtime, RuntimeInfo, Ticket
from latentmas_ray.driver.results import Answer, Failure, Observer
from latentmas_ray.driver.settings import DriverSettings
from latentmas_ray.driver.tally import Tally
from latentmas_ray.driver.work import segment_bounds
from latentmas_ray.errors import LatentMASError, TurnError, TurnLostError
from latentmas_ray.tasks import grade
from latentmas_ray.topology.agent import Topology

POLL_SECONDS = 0.2  # how long a wait lasts at most, so that Ctrl-C works and progress is told


class Driver:
    """Runs a topology over batches of questions on a started runtime. Several runs may follow one another."""

    def __init__(
        self,
        runtime: Runtime,
        topology: Topology,
        settings: DriverSettings,
        observer: Observer,
        *,
        info: RuntimeInfo,
        metrics: MetricSink | None = None,
        clock: Callable[[], float] = time.monotonic,
        grader: Grader = grade,
    ) -> None:
        """`info` is what `runtime.start()` returned; `metrics` is told what goes on; `clock` tells seconds."""
        self._runtime = runtime
        self._topology = topology
        self._route = Route.of(topology)
        self._settings = settings
        self._observer = observer
        self._metrics = RunMetrics(metrics or NoMetrics(), [agent.name for agent in topology.agents])
        self._info = info
        self._clock = clock
        self._grader = grader
        self._limit_bytes = settings.memory_limit_bytes or info.memory_limit_bytes
        self._choices = choose_handovers(
            settings.handover,
            self._route,
            info.handover_costs,
            bytes_per_token=info.sent_bytes_per_token or info.bytes_per_token,
        )
        self._handovers = {agent: choice.handover for agent, choice in self._choices.items()}
        self._max_flights = settings.batches_in_flight(len(topology.agents))
        self._reset([], 0)

    def run(self, batches: Sequence[Batch], *, num_done: int = 0) -> Generator[Answer | Failure, None, None]:
        """Yield an Answer or a Failure for every open question of `batches`, in the order in which they finish.

        `num_done` questions had an answer before; they only count for the progress. A turn that fails takes its
        batch with it: the questions are tried again one by one, and the one that fails again becomes a Failure.

        Whatever ends the run early, Ctrl-C and closing this generator included, cancels what is in flight and drops
        its memory; use `contextlib.closing` where the loop over the results may be left.
        Raises ActorError and ClusterError, which are no single question's fault, and InputError for a user's mistake
        that shows only now, such as a prompt that cannot be rendered.
        """
        self._reset(batches, num_done)
        self._observer.on_started(self._description(), self._tally.num_questions, num_done)
        error: LatentMASError | None = None
        try:
            while error is None and (self._queue or self._flights or len(self._grading)):
                try:
                    self._step()
                except LatentMASError as caught:
                    error = caught  # raised only after what finished before it has been given out
                while self._results:
                    yield self._results.popleft()
            if error is not None:
                yield from self._last_graded()
                raise error
        finally:
            error = None  # its traceback knows this frame: the cycle would keep tickets alive
            self._abandon_everything()
            self._tally.end()

    def _reset(self, batches: Sequence[Batch], num_done: int) -> None:
        self._queue = deque(Attempt(batch) for batch in batches)
        self._next: Flight | None = None  # the head of the queue, once it is rendered
        self._flights: set[Flight] = set()
        self._waiting: dict[Ticket, Flight] = {}
        self._grading: Grading[tuple[Flight, float]] = Grading(self._grader)
        self._results: deque[Answer | Failure] = deque()
        self._ledger = MemoryLedger(self._limit_bytes, self._info.bytes_per_token)
        num_open = sum(len(batch.open_questions) for batch in batches)
        self._tally = Tally(self._observer, self._metrics, self._clock, num_done + num_open, num_done)

    def _description(self) -> str:
        if self._settings.handover != "auto" or not self._choices:
            return self._info.description
        return "; ".join([self._info.description, *map(str, self._choices.values())])

    def _step(self) -> None:
        # What has finished comes first, then a new batch, and only then patience: so a runtime that carries out
        # turns at once is not flooded, and finished answers never wait for an admission.
        if self._collect(0.0) or self._take_graded(0.0) or self._admit():
            return
        assert self._waiting or len(self._grading), "batches are in flight but none of their turns is"
        if self._waiting:
            self._collect(POLL_SECONDS)
        else:
            self._take_graded(POLL_SECONDS)

    def _admit(self) -> bool:
        """Start the next batch if there is room for it."""
        if not self._queue or len(self._flights) >= self._max_flights:
            return False
        if self._next is None:
            self._next = Flight(self._queue[0], self._route, self._settings, self._handovers)
        flight = self._next
        if not self._ledger.fits(flight.bounds):
            return False
        self._queue.popleft()
        self._next = None
        if flight.admitted_at is None:
            flight.admitted_at = self._clock()
        self._flights.add(flight)
        self._ledger.reserve(flight, flight.bounds)
        self._submit_ready(flight)
        return True

    def _submit_ready(self, flight: Flight) -> None:
        while (work := flight.next_work()) is not None:
            ticket = self._runtime.submit(work, flight.segments_for(work))
            flight.submitted(ticket)
            self._waiting[ticket] = flight
            if work.thinks == "latent":
                self._ledger.reserve(flight, {work.agent: segment_bounds(work)})  # now with the texts it was given

    def _collect(self, timeout_seconds: float) -> bool:
        """Take in what has finished. Returns whether anything had; an error that ends the run is raised at the end."""
        finished = self._runtime.wait(list(self._waiting), timeout_seconds) if self._waiting else []
        ends_run: LatentMASError | None = None
        for ticket in finished:
            # A turn that failed may have taken this one with it.
            if (flight := self._waiting.get(ticket)) is None:
                continue
            try:
                self._take_in(flight, ticket, go_on=ends_run is None)
            except LatentMASError as error:  # the tickets behind it may hold answers
                ends_run = ends_run or error
        if finished or timeout_seconds:
            self._tally.tell(self._load())
        try:
            if ends_run is not None:
                raise ends_run
        finally:
            ends_run = None  # its traceback knows this frame: the cycle would keep tickets alive
        return bool(finished)

    def _load(self) -> Load:
        return Load(
            batches_in_flight=len(self._flights),
            batches_waiting=len(self._queue),
            turns_in_flight=Counter(ticket.agent for ticket in self._waiting),
            memory_bytes=self._ledger.held_bytes_by_agent(),
        )

    def _take_in(self, flight: Flight, ticket: Ticket, *, go_on: bool) -> None:
        """The report of a finished turn; `go_on` submits what can run now."""
        try:
            report = self._runtime.report(ticket)
        except (TurnError, TurnLostError) as error:
            cause = self._find_cause(flight, ticket, error)
            if cause.is_loss:
                self._recover(flight, cause, go_on=go_on)
            else:
                self._give_up(flight, cause)
            return
        del self._waiting[ticket]
        dropped = flight.finished(report)
        if go_on and not flight.is_complete:
            self._submit_ready(flight)  # before all that nobody waits for
        self._tally.count_turn(report)
        if report.agent in flight.bounds:
            self._ledger.settle(flight, report.agent, report.segment_bytes)
        for needless in dropped:
            self._ledger.release(flight, needless.agent)
        self._runtime.release(dropped)
        if flight.is_complete:
            self._flights.remove(flight)
            self._answer(flight)

    def _answer(self, flight: Flight) -> None:
        """All agents have reported: the answers are graded, code beside the turns of other batches."""
        assert flight.admitted_at is not None
        texts = flight.reports[self._topology.answering_agent.name].texts
        answers = zip(flight.batch.questions, texts, strict=True)
        still_open = [(question, text) for question, text in answers if question.id not in flight.batch.done]
        self._grading.give((flight, self._clock() - flight.admitted_at), still_open)
        self._take_graded(0.0)

    def _take_graded(self, timeout_seconds: float) -> bool:
        graded = self._grading.take(timeout_seconds)
        for (flight, seconds), grades in graded:
            for answer in make_answers(flight.batch, self._topology, flight.reports, seconds, grades):
                self._results.append(answer)
                self._tally.count_answer(answer)
        return bool(graded)

    def _last_graded(self) -> Generator[Answer | Failure, None, None]:
        """The run breaks off; answers that only lack their grades are not lost with it."""
        while len(self._grading):
            with suppress(LatentMASError):
                self._take_graded(POLL_SECONDS)
            while self._results:
                yield self._results.popleft()

    def _find_cause(self, flight: Flight, ticket: Ticket, error: TurnError | TurnLostError) -> Cause:
        """The agent whose turn failed first, and why: turns that read a failed turn's segment fail with it."""
        for source in flight.unfinished_sources(ticket.agent):
            if self._runtime.wait([source], 0.0):
                try:
                    self._runtime.report(source)
                except (TurnError, TurnLostError) as earlier:
                    return Cause.of(source.agent, earlier)
        return Cause.of(ticket.agent, error)

    def _recover(self, flight: Flight, cause: Cause, *, go_on: bool) -> None:
        """Carry out again what was lost, from the last memory that still exists. A batch that loses too often is given
        up, for a question in it may be the cause."""
        flight.num_losses += cause.is_suspect
        if flight.num_losses > max(1, self._settings.max_losses // flight.attempt):
            self._give_up(flight, cause)
            return
        lost = {name for name, ticket in flight.tickets.items() if self._runtime.is_lost(ticket)}
        sources = set(self._route.sources[cause.agent])
        if cause.lacks_memory and lost.isdisjoint(sources):
            lost |= sources  # which of them is gone, nobody knows
        pending, reported = flight.rewind(lost | {cause.agent})
        self._tally.count_fault(cause.agent, cause.reason)
        for ticket in pending:
            self._waiting.pop(ticket, None)
        self._runtime.cancel(pending)
        self._runtime.release([*pending, *reported])
        if go_on:
            self._submit_ready(flight)

    def _give_up(self, flight: Flight, cause: Cause) -> None:
        """Cancel a batch. Its questions are tried again alone; one that was alone and has had its chances fails."""
        pending, reported = flight.abandon()
        for ticket in pending:
            self._waiting.pop(ticket, None)
        self._runtime.cancel(pending)
        self._runtime.release([*pending, *reported])
        for name in flight.bounds:
            self._ledger.release(flight, name)
        self._flights.remove(flight)
        batch = flight.batch
        if len(batch.questions) == 1 and flight.attempt >= self._settings.max_attempts:
            failure = Failure(id=batch.questions[0].id, agent=cause.agent, error=cause.reason)
            self._results.append(failure)
            self._tally.count_failure(failure)
            return
        self._next = None  # the retries go before it
        retries = [Attempt(single, flight.attempt + 1, flight.admitted_at) for single in batch.split()]
        self._queue.extendleft(reversed(retries))

    def _abandon_everything(self) -> None:
        pending, dropped = [], []
        for flight in self._flights:
            unfinished, reported = flight.abandon()
            pending += unfinished
            dropped += [*unfinished, *reported]
        self._flights.clear()
        self._waiting.clear()
        self._queue.clear()
        self._next = None
        self._grading.cancel()
        if pending:
            self._runtime.cancel(pending)
        if dropped:
            self._runtime.release(dropped)
