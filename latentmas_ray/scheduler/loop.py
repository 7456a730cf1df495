"""The event loop: admits batches, submits turns as soon as they can run, collects reports, retries what failed.

It serves several runs at one time, as so many batches of one; `driver.shared` lets several threads drive it.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable

from latentmas_ray.errors import ActorError, ClusterError, LatentMASError, TurnError, TurnLostError
from latentmas_ray.runs.grading import Grader
from latentmas_ray.runs.results import Failure, ReturnedMemory
from latentmas_ray.scheduler.answers import kept_memories, make_answers
from latentmas_ray.scheduler.batch_state import BatchState, RetryState
from latentmas_ray.scheduler.memory_budget import MemoryBudget
from latentmas_ray.scheduler.metrics import LoadSnapshot, MetricSink, NoMetrics, record_load
from latentmas_ray.scheduler.protocol import Runtime, RuntimeInfo, TurnHandle
from latentmas_ray.scheduler.run import Run, RunRequest
from latentmas_ray.scheduler.turn_failure import TurnFailure
from latentmas_ray.scheduler.turns import segment_bounds
from latentmas_ray.tasks import grade

POLL_SECONDS = 0.2  # how long a step waits at most, so that Ctrl-C works and progress is told
_ENDS_ALL = (ActorError, ClusterError)  # no single run's fault


class Scheduler:
    """Carries out runs on a started runtime. Its methods are called from one thread at a time."""

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
        """`info` is what `runtime.start()` returned, with the memory limit that holds where none is given; `metrics` is
        told what goes on; `clock` tells seconds."""
        self._runtime = runtime
        self._info = info
        self._metrics = metrics or NoMetrics()
        self._clock = clock
        self._grader = grader
        self._ledger = MemoryBudget(memory_limit_bytes or info.memory_limit_bytes, info.bytes_per_token)
        self._runs: deque[Run] = deque()  # the first one may admit a batch next
        self._waiting: dict[TurnHandle, tuple[Run, BatchState]] = {}
        self._agents: set[str] = set()  # of all runs so far
        self._num_batches = 0  # of all runs so far

    def begin(self, request: RunRequest) -> Run:
        """Take on a run. Its results come into `Run.results`, one for each open question of its batches, in the order
        in which they finish, until `Run.is_over`.

        A turn that fails takes its batch with it: the questions are tried again one by one, and the one that fails
        again becomes a Failure. `Run.error` is what ended the run early: ActorError and ClusterError, which end all
        runs, and InputError for a mistake of the user's that shows only now, such as a prompt that cannot be rendered.
        """
        run = Run(
            request,
            self._info,
            metrics=self._metrics,
            clock=self._clock,
            grader=self._grader,
            first_batch=self._num_batches,
        )
        self._num_batches += 1 + max((batch.number for batch in request.batches), default=0)
        self._agents.update(agent.name for agent in run.route.agents)
        run.tally.start(run.describe(self._info.description))
        self._runs.append(run)
        return run

    def step(self) -> None:
        """Go on with all runs by one event: what has finished comes first, then a new batch, and only then patience.

        So a runtime that carries out turns at once is not flooded, and finished answers never wait for an admission.
        """
        for run in list(self._runs):
            if run.is_cancelled or run.is_idle:
                self.end(run)
        if not self._collect(0.0) and not self._take_graded(0.0) and not self._admit():
            if self._waiting:
                self._collect(POLL_SECONDS)
            else:
                self._take_graded(POLL_SECONDS)
        for run in list(self._runs):
            if run.is_idle:
                self.end(run)

    def end(self, run: Run) -> None:
        """Nothing more comes of a run: cancels what is in flight and drops its memory."""
        if run.is_over:
            return
        try:
            self._abandon(list(run.batch_states))
            run.grading.cancel()
        finally:
            run.drop()
            run.is_over = True
            if run in self._runs:
                self._runs.remove(run)
        record_load(self._metrics, self._load(), self._agents)
        run.tally.end()

    def end_all(self, error: BaseException) -> None:
        """End all runs with this error."""
        for run in list(self._runs):
            run.fail(error)
        for run in list(self._runs):
            self.end(run)

    def start_over(self) -> None:
        """Something broke into a step: all that is in flight is dropped, and what has no result waits again."""
        self._runtime_forgets(list(self._waiting), [])
        self._waiting.clear()
        for run in self._runs:
            self._abandon(list(run.batch_states))
            run.start_over()
        self._ledger.clear()

    @property
    def has_runs(self) -> bool:
        """Whether there is anything to do."""
        return bool(self._runs)

    def _admit(self) -> bool:
        """Start the next batch if there is room for it: of the runs in turn, so that none waits for all of another."""
        for run in list(self._runs):
            try:
                batch_state = run.next_flight()
            except LatentMASError as error:
                self._fail([run], error)
                return True
            if batch_state is None:
                continue
            if not self._ledger.fits(batch_state.bounds):
                return False  # a later run with a smaller batch must not keep this one waiting for ever
            run.admit(batch_state)
            self._runs.remove(run)
            self._runs.append(run)
            if batch_state.admitted_at is None:
                batch_state.admitted_at = self._clock()
            self._ledger.reserve(batch_state, batch_state.bounds)
            try:
                self._submit_ready(run, batch_state)
            except LatentMASError as error:
                self._fail(self._ended_by(error, run), error)
            return True
        return False

    def _submit_ready(self, run: Run, batch_state: BatchState) -> None:
        while (work := batch_state.next_work()) is not None:
            ticket = self._runtime.submit(work, batch_state.segments_for(work))
            batch_state.submitted(ticket)
            self._waiting[ticket] = run, batch_state
            if work.thinks == "latent":
                self._ledger.reserve(batch_state, {work.agent: segment_bounds(work)})  # now with the texts it was given

    def _collect(self, timeout_seconds: float) -> bool:
        """Take in what has finished. Returns whether anything had."""
        failed: dict[Run, LatentMASError] = {}
        try:
            finished = self._runtime.wait(list(self._waiting), timeout_seconds) if self._waiting else []
        except LatentMASError as error:
            self._fail(list(self._runs), error)
            return True
        for ticket in finished:
            # A turn that failed may have taken this one with it.
            if (found := self._waiting.get(ticket)) is None:
                continue
            run, batch_state = found
            try:
                self._take_in(run, batch_state, ticket, go_on=run not in failed)
            except LatentMASError as error:  # the tickets behind it may hold answers
                for ended in self._ended_by(error, run):
                    failed.setdefault(ended, error)
        if finished or timeout_seconds:
            self._report_progress()
        while failed:  # no local name for the error: its traceback knows this frame, and the cycle would keep tickets
            self._fail([next(iter(failed))], failed.pop(next(iter(failed))))
        return bool(finished)

    def _ended_by(self, error: LatentMASError, run: Run) -> list[Run]:
        return list(self._runs) if isinstance(error, _ENDS_ALL) else [run]

    def _fail(self, runs: Iterable[Run], error: LatentMASError) -> None:
        """These runs end with an error; answers that only lack their grades are not lost with them."""
        for run in runs:
            run.fail(error)
            self._abandon(list(run.batch_states))
            run.drop()

    def _report_progress(self) -> None:
        load = self._load()
        record_load(self._metrics, load, self._agents)
        held = sum(load.memory_bytes.values())
        for run in self._runs:
            run.tally.report(batches_in_flight=len(run.batch_states), memory_bytes=held)

    def _load(self) -> LoadSnapshot:
        return LoadSnapshot(
            batches_in_flight=sum(len(run.batch_states) for run in self._runs),
            batches_waiting=sum(len(run.queue) for run in self._runs),
            turns_in_flight=Counter(ticket.agent for ticket in self._waiting),
            memory_bytes=self._ledger.held_bytes_by_agent(),
        )

    def _take_in(self, run: Run, batch_state: BatchState, ticket: TurnHandle, *, go_on: bool) -> None:
        """The report of a finished turn; `go_on` submits what can run now."""
        try:
            report = self._runtime.report(ticket)
        except (TurnError, TurnLostError) as error:
            cause = self._find_cause(batch_state, ticket, error)
            if cause.is_loss:
                self._recover(run, batch_state, cause, go_on=go_on)
            else:
                self._give_up(run, batch_state, cause)
            return
        del self._waiting[ticket]
        dropped = batch_state.finished(report)
        if go_on and not batch_state.is_complete:
            self._submit_ready(run, batch_state)  # before all that nobody waits for
        run.tally.count_turn(report)
        if report.agent in batch_state.bounds:
            self._ledger.settle(batch_state, report.agent, report.segment_bytes)
        for needless in dropped:
            self._ledger.release(batch_state, needless.agent)
        self._runtime.release(dropped)
        if batch_state.is_complete:
            run.batch_states.remove(batch_state)
            self._finish(run, batch_state)

    def _finish(self, run: Run, batch_state: BatchState) -> None:
        """All agents have reported: memory is handed out, answers are graded while other batches go on."""
        assert batch_state.admitted_at is not None
        if run.request.goal == "think":
            for kept in self._kept(run, batch_state):
                if kept.id not in batch_state.batch.done and run.settle(kept):
                    run.tally.count_memory(kept.id)
            return
        texts = batch_state.reports[run.topology.answering_agent.name].texts
        answers = zip(batch_state.batch.questions, texts, strict=True)
        still_open = [(question, text) for question, text in answers if question.id not in batch_state.batch.done]
        run.grading.give((batch_state, self._clock() - batch_state.admitted_at), still_open)
        self._take_graded_of(run, 0.0)

    def _take_graded(self, timeout_seconds: float) -> bool:
        """Take in what has its grades; waits for one run's only if there is nothing else to do."""
        grading = [run for run in self._runs if len(run.grading)]
        seconds = timeout_seconds / max(1, len(grading))
        return [self._take_graded_of(run, seconds) for run in grading].count(True) > 0

    def _take_graded_of(self, run: Run, timeout_seconds: float) -> bool:
        try:
            graded = run.grading.take(timeout_seconds)
        except LatentMASError as error:
            self._fail([run], error)
            return True
        for (batch_state, seconds), grades in graded:
            kept = {memory.id: memory for memory in self._kept(run, batch_state)} if run.request.keeps_memory else None
            for answer in make_answers(batch_state.batch, run.route, batch_state.reports, seconds, grades, kept=kept):
                if run.settle(answer):
                    run.tally.count_answer(answer)
        return bool(graded)

    def _kept(self, run: Run, batch_state: BatchState) -> list[ReturnedMemory]:
        return kept_memories(batch_state.batch, run.route, batch_state.reports, run.request.model)

    def _find_cause(self, batch_state: BatchState, ticket: TurnHandle, error: TurnError | TurnLostError) -> TurnFailure:
        """The agent whose turn failed first, and why: turns that read a failed turn's segment fail with it."""
        for source in batch_state.unfinished_sources(ticket.agent):
            if self._runtime.wait([source], 0.0):
                try:
                    self._runtime.report(source)
                except (TurnError, TurnLostError) as earlier:
                    return TurnFailure.of(source.agent, earlier)
        return TurnFailure.of(ticket.agent, error)

    def _recover(self, run: Run, batch_state: BatchState, cause: TurnFailure, *, go_on: bool) -> None:
        """Carry out again what was lost, from the last memory that still exists. A batch that loses too often is given
        up, for a question in it may be the cause."""
        batch_state.num_losses += cause.is_suspect
        if batch_state.num_losses > max(1, run.settings.max_losses // batch_state.attempt):
            self._give_up(run, batch_state, cause)
            return
        lost = {name for name, ticket in batch_state.tickets.items() if self._runtime.is_lost(ticket)}
        sources = set(run.route.sources[cause.agent])
        if cause.lacks_memory and lost.isdisjoint(sources):
            lost |= sources  # which of them is gone is not known
        pending, reported = batch_state.rewind(lost | {cause.agent})
        run.tally.count_fault(cause.agent, cause.reason)
        self._runtime_forgets(pending, reported)
        if go_on:
            self._submit_ready(run, batch_state)

    def _give_up(self, run: Run, batch_state: BatchState, cause: TurnFailure) -> None:
        """Cancel a batch. Its questions are tried again alone; one that was alone and has had its chances fails."""
        self._abandon([batch_state])
        run.batch_states.remove(batch_state)
        batch = batch_state.batch
        if len(batch.questions) == 1 and batch_state.attempt >= run.settings.max_attempts:
            failure = Failure(id=batch.questions[0].id, agent=cause.agent, error=cause.reason)
            if run.settle(failure):
                run.tally.count_failure(failure)
            return
        run.retry([RetryState(single, batch_state.attempt + 1, batch_state.admitted_at) for single in batch.split()])

    def _abandon(self, batch_states: Iterable[BatchState]) -> None:
        """Cancel the turns of these batches, and drop their memory."""
        pending, reported = [], []
        for batch_state in batch_states:
            unfinished, finished = batch_state.abandon()
            pending += unfinished
            reported += finished
            for name in batch_state.bounds:
                self._ledger.release(batch_state, name)
        self._runtime_forgets(pending, reported)

    def _runtime_forgets(self, pending: list[TurnHandle], reported: list[TurnHandle]) -> None:
        for ticket in pending:
            self._waiting.pop(ticket, None)
        if pending:
            self._runtime.cancel(pending)
        if pending or reported:
            self._runtime.release([*pending, *reported])
