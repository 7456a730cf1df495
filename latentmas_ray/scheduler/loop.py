"""The event loop: admits batches, submits turns that are ready, handles the events of the runtime.

It serves several runs at the same time; `scheduler.shared` makes it usable from several threads.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from contextlib import contextmanager

from latentmas_ray.errors import ActorError, ClusterError, LatentMASError
from latentmas_ray.runs.grading import Grader
from latentmas_ray.scheduler import finish
from latentmas_ray.scheduler.batch_state import BatchState
from latentmas_ray.scheduler.memory_budget import MemoryBudget
from latentmas_ray.scheduler.metrics import LoadSnapshot, MetricSink, NoMetrics, record_load
from latentmas_ray.scheduler.protocol import (
    CapacityChanged,
    QuestionDone,
    Runtime,
    RuntimeInfo,
    TokensWritten,
    TurnDone,
    TurnEvent,
    TurnFailed,
    TurnHandle,
    TurnLost,
)
from latentmas_ray.scheduler.retry import TurnFailure, actor_died, is_batch_retried
from latentmas_ray.scheduler.run import Run, RunRequest, TurnsInFlight, change_capacity
from latentmas_ray.tasks import grade

POLL_SECONDS = 0.2  # upper bound on the wait of one step, so that Ctrl-C works and progress is sent
PROGRESS_SECONDS = 0.15  # between two reports while nothing but tokens is reported, or many turns are in flight
MANY_TURNS = 64  # in flight: their ends come faster than anyone reads progress
FailureEvent = TurnFailed | TurnLost
_ENDS_ALL_RUNS = (ActorError, ClusterError)  # no single run caused these


class Scheduler:
    """Executes runs on a started runtime. Not thread-safe: one thread may call it at a time."""

    def __init__(
        self,
        runtime: Runtime,
        *,
        info: RuntimeInfo,
        memory_limit_bytes: int | None = None,
        metrics: MetricSink | None = None,
        clock: Callable[[], float] = time.monotonic,
        grader: Grader = grade,
    ) -> None:
        """`info` is the result of `runtime.start()`, with the default of `memory_limit_bytes`. `clock`: in seconds."""
        self._runtime = runtime
        self.info = info  # for runs that start later
        self._metrics = metrics or NoMetrics()
        self._clock = clock
        self._grader = grader
        limit_bytes = memory_limit_bytes or info.memory_limit_bytes
        self._memory_budget = MemoryBudget(limit_bytes, info.bytes_per_token, info.state_bytes)
        self._runs: deque[Run] = deque()  # in the order in which they may admit a batch
        self._in_flight = TurnsInFlight()
        self._agents: set[str] = set()  # of all runs so far
        self._num_batches = 0  # of all runs so far
        self._reported_at, self._has_news = clock(), False  # when progress was reported last, and whether it is old

    def start_run(self, request: RunRequest) -> Run:
        """Start a run. Its results are added to `Run.results` until `Run.is_over`, one for each open question of its
        batches, in the order in which they finish.

        A batch whose turn fails is retried (`scheduler.retry`). `Run.error` is what ended the run early: ActorError and
        ClusterError, which end all runs, or an InputError that is found late, as a prompt that cannot be rendered.
        """
        run = Run(
            request,
            self.info,
            metrics=self._metrics,
            clock=self._clock,
            grader=self._grader,
            number_offset=self._num_batches,
        )
        self._num_batches = 1 + max((batch.number for batch in run.batches), default=self._num_batches)
        self._agents.update(agent.name for agent in run.topology_index.agents)
        run.counters.start(run.describe(self.info.description))
        self._runs.append(run)
        return run

    def step(self, poll_seconds: float = POLL_SECONDS) -> None:
        """Advance all runs by one step: handle finished turns or grades; else admit a batch; else wait for an event.

        This order floods no runtime that executes turns synchronously, and no finished answer waits for an admission.
        """
        for run in list(self._runs):
            for batch_state in finish.withdraw(run, self._runtime.cancel):
                self._drop_batch(run, batch_state)
            if run.is_cancelled or run.is_idle:
                self.close_run(run)
        if not self._poll(0.0) and not self._collect_grades(0.0) and not self._admit():
            (self._poll if self._in_flight else self._collect_grades)(poll_seconds)
        for run in list(self._runs):
            if run.is_idle:
                self.close_run(run)

    def close_run(self, run: Run) -> None:
        """Close a run: cancel its turns in flight and free its memory."""
        if run.is_over:
            return
        try:
            self._cancel_batches(list(run.batch_states))
            run.grading.cancel()
            run.clear()
            (self._report_progress if self._has_news else self._record_load)()
            run.counters.finish()
        finally:
            if run in self._runs:
                self._runs.remove(run)
            run.clear()
            run.is_over = True  # last: callers in other threads leave, and what observes the run may be closed

    def fail_all_runs(self, error: BaseException) -> None:
        """Close all runs with this error."""
        for run in list(self._runs):
            run.fail(error)
        for run in list(self._runs):
            self.close_run(run)

    def reset(self) -> None:
        """Recover from an exception within a step: cancel all turns in flight, queue all questions without a result."""
        self._cancel_turns(list(self._in_flight), [])
        self._in_flight.clear()
        for run in self._runs:
            self._cancel_batches(list(run.batch_states))
            run.reset()
        self._memory_budget.clear()

    @property
    def has_runs(self) -> bool:
        """Whether any run is not over."""
        return bool(self._runs)

    def _admit(self) -> bool:
        """Start the next batch if it fits the memory budget. Returns whether anything happened. Runs admit in turn."""
        if any(run.runs_alone for run in self._runs):
            return False
        # With one run, which may have thousands of batches in flight, there are no others.
        unanswered = {run: run.num_unanswered for run in self._runs} if len(self._runs) > 1 else {}
        for run in list(self._runs):
            try:
                batch_state = run.next_batch(sum(unanswered.values()) - unanswered.get(run, 0))
            except LatentMASError as error:
                self._fail([run], error)
                return True
            if batch_state is None:
                continue
            must_wait = batch_state.retry.runs_alone and any(one.batch_states for one in self._runs)
            if must_wait or not self._memory_budget.fits(batch_state.bounds):
                return False  # else (smaller) batches of later runs could delay this one for ever
            run.admit(batch_state)
            self._runs.remove(run)
            self._runs.append(run)
            batch_state.admit(self._clock())
            self._memory_budget.reserve(batch_state, batch_state.bounds)
            try:
                self._submit_ready(run, batch_state)
            except LatentMASError as error:
                self._fail(self._ended_by(error, run), error)
            return True
        return False

    def _submit_ready(self, run: Run, batch_state: BatchState) -> None:
        while (request := batch_state.next_request()) is not None:
            handle = self._runtime.submit(request, batch_state.segments_for(request), *run.listeners(request))
            batch_state.add_handle(handle)
            self._in_flight.add(handle, run, batch_state)
            if (bounds := batch_state.new_bounds(request)) is not None:
                self._memory_budget.reserve(batch_state, {request.agent: bounds})
            if self.info.is_synchronous:
                return  # the end of this turn submits the next one

    def _poll(self, timeout_seconds: float) -> bool:
        """Poll the runtime and handle its events. Returns whether any turn or question finished, failed or was lost."""
        try:
            events = self._runtime.poll(timeout_seconds) if self._in_flight else []
        except LatentMASError as error:
            self._fail(list(self._runs), error)
            return True
        turns, questions = list[TurnEvent](), list[QuestionDone]()
        for event in events:
            match event:
                case TokensWritten(handle):
                    if (found := self._in_flight.get(handle)) is not None:
                        found[0].note_tokens(found[1], event)
                case TurnDone() | TurnFailed() | TurnLost():
                    turns.append(event)
                case QuestionDone():
                    questions.append(event)
                case CapacityChanged():
                    self.info = change_capacity(self.info, event, self._runs)
                case _:
                    for run in self._runs:
                        run.counters.send(event)
        self._handle_outcomes(questions, turns)
        self._has_news |= bool(turns or questions)
        is_seen = self._has_news and len(self._in_flight) < MANY_TURNS
        if is_seen or self._clock() - self._reported_at >= PROGRESS_SECONDS:
            self._report_progress()
        return bool(turns or questions)

    def _handle_outcomes(self, questions: Sequence[QuestionDone], events: Sequence[TurnEvent]) -> None:
        """Handle the outcomes of questions and turns. What is finished comes first, so that failures do not discard
        it."""
        done = [event for event in events if isinstance(event, TurnDone)]
        finished = {event.handle for event in done}
        rest = [event for event in events if not isinstance(event, TurnDone)]
        failed, broken = self._classify([event for event in rest if event.handle not in finished])
        for question in questions:
            if (found := self._in_flight.get(question.handle)) is not None and question.result is not None:
                run, batch_state = found
                with self._recording_errors(failed, run):
                    finish.finish_question(run, batch_state, question.question_id, question.result, self._clock())
                    self._collect_grades_of(run, 0.0)
        for one in done:
            if (found := self._in_flight.take(one.handle)) is not None:
                run, batch_state = found
                submit_next = run not in failed and batch_state not in broken
                with self._recording_errors(failed, run):
                    self._finish_turn(run, batch_state, one, submit_next=submit_next)
        self._mark_lost_segments(event.handle for event in rest if isinstance(event, TurnLost))
        for batch_state, (run, failures) in broken.items():
            with self._recording_errors(failed, run):
                self._retry(run, batch_state, failures, submit_next=run not in failed)
        # No local variable for the error: its traceback refers to this frame, and the cycle would keep handles alive.
        while failed:
            self._fail([next(iter(failed))], failed.pop(next(iter(failed))))

    def _classify(
        self, failures: Iterable[FailureEvent]
    ) -> tuple[dict[Run, LatentMASError], dict[BatchState, tuple[Run, list[FailureEvent]]]]:
        """Return the runs that these failures end, with their errors, and the batches to be retried."""
        failed: dict[Run, LatentMASError] = {}
        broken: dict[BatchState, tuple[Run, list[FailureEvent]]] = {}
        for event in failures:
            if (found := self._in_flight.get(event.handle)) is None:
                continue  # it was cancelled, or has a result and lost its segment
            run, batch_state = found
            if isinstance(event, TurnLost) or is_batch_retried(event.error):
                broken.setdefault(batch_state, (run, []))[1].append(event)
            else:
                for ended in self._ended_by(event.error, run):
                    failed.setdefault(ended, event.error)
        return failed, broken

    @contextmanager
    def _recording_errors(self, failed: dict[Run, LatentMASError], run: Run) -> Iterator[None]:
        """Record an error of the body for the runs that it ends; they are closed after all outcomes are handled."""
        try:
            yield
        except LatentMASError as error:
            for ended in self._ended_by(error, run):
                failed.setdefault(ended, error)

    def _mark_lost_segments(self, handles: Iterable[TurnHandle]) -> None:
        """Mark finished turns whose segments are lost: they are submitted again once a reader lacks a segment."""
        if lost := set(handles):
            for batch_state in (batch_state for run in self._runs for batch_state in run.batch_states):
                batch_state.mark_lost(lost)

    def _ended_by(self, error: LatentMASError, run: Run) -> list[Run]:
        return list(self._runs) if isinstance(error, _ENDS_ALL_RUNS) else [run]

    def _fail(self, runs: Iterable[Run], error: LatentMASError) -> None:
        """End these runs with an error. Answers that are being graded still become results."""
        for run in runs:
            run.fail(error)
            self._cancel_batches(list(run.batch_states))
            run.clear()

    def _report_progress(self) -> None:
        self._reported_at, self._has_news = self._clock(), False
        stored_bytes = sum(self._record_load().memory_bytes.values())
        for run in self._runs:
            run.send_progress(stored_bytes)

    def _record_load(self) -> LoadSnapshot:
        load = LoadSnapshot(
            batches_in_flight=sum(len(run.batch_states) for run in self._runs),
            batches_waiting=sum(len(run.queue) for run in self._runs),
            turns_in_flight=self._in_flight.num_by_agent(),
            memory_bytes=self._memory_budget.stored_bytes_by_agent(),
        )
        record_load(self._metrics, load, self._agents)
        return load

    def _finish_turn(self, run: Run, batch_state: BatchState, event: TurnDone, *, submit_next: bool) -> None:
        """Store the result of a turn; `submit_next` submits the turns that are ready now."""
        result = event.result
        batch_state.add_result(result)
        finish.settle_failed(run, batch_state, result, self._runtime.cancel)
        needs_more = bool(batch_state.open_questions) and not batch_state.is_complete
        if self.info.is_synchronous:
            run.counters.count_turn(event)  # its observer sees the turn before the next one is executed
        if submit_next and needs_more:
            self._submit_ready(run, batch_state)  # first, because actors wait for it
        if not self.info.is_synchronous:
            run.counters.count_turn(event)
        if result.agent in batch_state.bounds:
            self._memory_budget.set_size(batch_state, result.agent, result.segment_bytes)
        self._free_segments(batch_state, batch_state.take_segments_to_free())
        if batch_state.is_complete:
            finish.finish_batch(run, batch_state, self._clock())
        elif needs_more:
            finish.finish_early(run, batch_state)
        else:
            self._drop_batch(run, batch_state)
        self._collect_grades_of(run, 0.0)

    def _free_segments(self, batch_state: BatchState, handles: Sequence[TurnHandle]) -> None:
        """Free segments whose last reader has its result."""
        for handle in handles:
            self._memory_budget.stop_counting(batch_state, handle.agent)
        self._runtime.free_segments(handles)

    def _collect_grades(self, timeout_seconds: float) -> bool:
        """Add graded answers to their runs' results. `timeout_seconds` is divided among the runs that are grading."""
        grading = [run for run in self._runs if len(run.grading)]
        return [self._collect_grades_of(run, timeout_seconds / len(grading)) for run in grading].count(True) > 0

    def _collect_grades_of(self, run: Run, timeout_seconds: float) -> bool:
        try:
            return finish.collect_grades(run, timeout_seconds)
        except LatentMASError as error:
            self._fail([run], error)
            return True

    def _retry(self, run: Run, batch_state: BatchState, failures: Sequence[FailureEvent], *, submit_next: bool) -> None:
        """Retry a batch after these failures; `submit_next` submits the turns that are ready now.

        Failures are handled in topological order, because turns that read a failed turn's segment fail with it.
        """
        if not batch_state.open_questions:  # the answers were there before the end of their turn
            self._drop_batch(run, batch_state)
            return
        for event in sorted(failures, key=lambda event: batch_state.depth(event.handle.agent)):
            if event.handle not in self._in_flight:
                continue  # reset or cancelled with an earlier failure
            failure = TurnFailure.of(event)
            dying = [other for other in failures if actor_died(other) and other.handle in self._in_flight]
            dead = {other.handle.agent for other in dying}
            num_losses = batch_state.count_losses(TurnFailure.of(one) for one in (event, *dying))
            if failure.is_loss and batch_state.retry.can_resubmit_lost_turns(num_losses, run.settings.max_losses):
                self._rewind(run, batch_state, failure, dead)
                run.counters.count_fault(event.handle, failure.reason)
            elif (done := finish.failed_alone(run, batch_state, failure, event.handle)) is not None:
                self._handle_outcomes([], [done])
            else:
                self._fail_batch(run, batch_state, failure, event.handle)
        if submit_next and batch_state in run.batch_states:
            self._submit_ready(run, batch_state)

    def _rewind(self, run: Run, batch_state: BatchState, failure: TurnFailure, dead: Set[str]) -> None:
        """Reset the lost turns, and the turns whose lost segments they read."""
        lost = batch_state.lost_segments | dead
        if failure.lacks_memory and lost.isdisjoint(run.topology_index.sources[failure.agent]):
            lost |= batch_state.lacked_sources(failure.agent)  # which one is lost is unknown
        pending, finished = batch_state.rewind(lost | {failure.agent})
        self._cancel_turns(pending, finished)

    def _fail_batch(self, run: Run, batch_state: BatchState, failure: TurnFailure, handle: TurnHandle) -> None:
        """Cancel a failed batch. Its questions are tried again, or fail for good."""
        self._drop_batch(run, batch_state)
        attempts, failed = finish.attempts_after(run, batch_state, failure)
        run.retry(attempts)
        if attempts and failure.is_loss:
            run.counters.count_fault(handle, failure.reason)
        run.add_failures(failure.agent, failed, failure.refused)

    def _drop_batch(self, run: Run, batch_state: BatchState) -> None:
        """Cancel a batch, which owes no answer any more."""
        self._cancel_batches([batch_state])
        run.batch_states.discard(batch_state)

    def _cancel_batches(self, batch_states: Iterable[BatchState]) -> None:
        """Cancel the turns of these batches and free their memory."""
        pending, finished = [], []
        for batch_state in batch_states:
            unfinished, done = batch_state.cancel()
            pending += unfinished
            finished += done
            for name in batch_state.bounds:
                self._memory_budget.stop_counting(batch_state, name)
        self._cancel_turns(pending, finished)

    def _cancel_turns(self, pending: list[TurnHandle], finished: list[TurnHandle]) -> None:
        """Cancel the pending turns, and free the segments of all these turns."""
        for handle in pending:
            self._in_flight.take(handle)
        if pending:
            self._runtime.cancel(pending)
        if pending or finished:
            self._runtime.free_segments([*pending, *finished])
