"""The event loop: admits batches, submits turns as soon as they can run, acts on what the runtime reports.

It serves several runs at one time, as so many batches of one; `driver.shared` lets several threads drive it.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from contextlib import contextmanager

from latentmas_ray.errors import ActorError, ClusterError, LatentMASError
from latentmas_ray.runs.grading import Grader
from latentmas_ray.runs.results import Failure, ReturnedMemory
from latentmas_ray.scheduler.answers import kept_memories, make_answers
from latentmas_ray.scheduler.batch_state import BatchState
from latentmas_ray.scheduler.events import Event, TurnDone, TurnEvent, TurnFailed, TurnHandle, TurnLost
from latentmas_ray.scheduler.memory_budget import MemoryBudget
from latentmas_ray.scheduler.metrics import LoadSnapshot, MetricSink, NoMetrics, record_load
from latentmas_ray.scheduler.protocol import Runtime, RuntimeInfo
from latentmas_ray.scheduler.retry import TurnFailure, is_retried
from latentmas_ray.scheduler.run import Run, RunRequest
from latentmas_ray.scheduler.turns import segment_bounds
from latentmas_ray.tasks import grade

POLL_SECONDS = 0.2  # how long a step waits at most, so that Ctrl-C works and progress is told
Broke = TurnFailed | TurnLost
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
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        """`info` is what `runtime.start()` returned, with the memory limit that holds where none is given; `metrics` is
        told what goes on; `clock` tells seconds; `on_event` gets every event of the runtime before it is acted on, and
        must not raise."""
        self._runtime = runtime
        self._info = info
        self._metrics = metrics or NoMetrics()
        self._clock = clock
        self._grader = grader
        self._on_event = on_event
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
            batch_state.admit(self._clock())
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
        """Take in what has happened. Returns whether any turn had an outcome."""
        try:
            events = self._runtime.poll(timeout_seconds) if self._waiting else []
        except LatentMASError as error:
            self._fail(list(self._runs), error)
            return True
        turns: list[TurnEvent] = []
        for event in events:
            if self._on_event is not None:
                self._on_event(event)
            match event:
                case TurnDone() | TurnFailed() | TurnLost():
                    turns.append(event)
                case _:
                    pass  # progress, replicas and nodes: for those who listen, there is nothing to schedule
        self._take_in(turns)
        if turns or timeout_seconds:
            self._report_progress()
        return bool(turns)

    def _take_in(self, events: Sequence[TurnEvent]) -> None:
        """Act on outcomes of turns, the good ones first: what has finished in time is not lost with what has failed."""
        done = [event for event in events if isinstance(event, TurnDone)]
        finished = {event.handle for event in done}
        rest = [event for event in events if not isinstance(event, TurnDone)]
        failed, broken = self._sort([event for event in rest if event.handle not in finished])
        for one in done:
            if (found := self._waiting.pop(one.handle, None)) is not None:
                run, batch_state = found
                with self._ending_runs(failed, run):
                    self._finish_turn(run, batch_state, one, go_on=run not in failed and batch_state not in broken)
        self._note_lost_segments(event.handle for event in rest if isinstance(event, TurnLost))
        for batch_state, (run, failures) in broken.items():
            with self._ending_runs(failed, run):
                self._retry(run, batch_state, failures, go_on=run not in failed)
        while failed:  # no local name for the error: its traceback knows this frame, and the cycle would keep tickets
            self._fail([next(iter(failed))], failed.pop(next(iter(failed))))

    def _sort(
        self, failures: Iterable[Broke]
    ) -> tuple[dict[Run, LatentMASError], dict[BatchState, tuple[Run, list[Broke]]]]:
        """The runs that these failures end, and the batches that are tried again."""
        failed: dict[Run, LatentMASError] = {}
        broken: dict[BatchState, tuple[Run, list[Broke]]] = {}
        for event in failures:
            if (found := self._waiting.get(event.handle)) is None:
                continue  # it was cancelled, or is done and has lost its segment
            run, batch_state = found
            if isinstance(event, TurnLost) or is_retried(event.error):
                broken.setdefault(batch_state, (run, []))[1].append(event)
            else:
                for ended in self._ended_by(event.error, run):
                    failed.setdefault(ended, event.error)
        return failed, broken

    @contextmanager
    def _ending_runs(self, failed: dict[Run, LatentMASError], run: Run) -> Iterator[None]:
        """Note an error of the body, for its runs to be ended once all outcomes are taken in."""
        try:
            yield
        except LatentMASError as error:
            for ended in self._ended_by(error, run):
                failed.setdefault(ended, error)

    def _note_lost_segments(self, handles: Iterable[TurnHandle]) -> None:
        """Turns that are done and whose segments are gone: they are carried out again once a reader lacks them."""
        for handle in handles:
            for batch_state in (batch_state for run in self._runs for batch_state in run.batch_states):
                if batch_state.tickets.get(handle.agent) is handle and handle.agent in batch_state.reports:
                    batch_state.gone.add(handle.agent)

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

    def _finish_turn(self, run: Run, batch_state: BatchState, event: TurnDone, *, go_on: bool) -> None:
        """A turn has its result; `go_on` submits what can run now."""
        result = event.result
        to_free = batch_state.finished(result)
        if go_on and not batch_state.is_complete:
            self._submit_ready(run, batch_state)  # before all that nobody waits for
        run.tally.count_turn(result)
        if result.agent in batch_state.bounds:
            self._ledger.settle(batch_state, result.agent, result.segment_bytes)
        self._free_segments(batch_state, to_free)
        if batch_state.is_complete:
            run.batch_states.remove(batch_state)
            self._finish(run, batch_state)

    def _free_segments(self, batch_state: BatchState, handles: Sequence[TurnHandle]) -> None:
        """The last reader of these segments has its result."""
        for handle in handles:
            self._ledger.release(batch_state, handle.agent)
        self._runtime.free_segments(handles)

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

    def _retry(self, run: Run, batch_state: BatchState, failures: Sequence[Broke], *, go_on: bool) -> None:
        """Try a batch again after these failures; `go_on` submits what can run now.

        The first in topological order counts: turns that read a failed turn's segment fail with it.
        """
        for event in sorted(failures, key=lambda event: batch_state.depth(event.handle.agent)):
            if event.handle not in self._waiting:
                continue  # it was rewound, or given up, with an earlier one
            failure = TurnFailure.of(event)
            dying = [other for other in failures if _died(other) and other.handle in self._waiting]
            dead = {other.handle.agent for other in dying}
            # Turns that were lost together count once, whichever of them is the suspect.
            batch_state.num_losses += failure.is_suspect or any(TurnFailure.of(other).is_suspect for other in dying)
            if failure.is_loss and batch_state.retry.can_rewind(batch_state.num_losses, run.settings.max_losses):
                self._rewind(run, batch_state, failure, dead)
            else:
                self._give_up(run, batch_state, failure)
        if go_on and batch_state in run.batch_states:
            self._submit_ready(run, batch_state)

    def _rewind(self, run: Run, batch_state: BatchState, failure: TurnFailure, dead: Set[str]) -> None:
        """Have what was lost carried out again, from the last memory that still exists."""
        lost = batch_state.gone | dead
        sources = set(run.route.sources[failure.agent])
        if failure.lacks_memory and lost.isdisjoint(sources):
            lost |= sources  # which of them is gone is not known
        pending, reported = batch_state.rewind(lost | {failure.agent})
        run.tally.count_fault(failure.agent, failure.reason)
        self._runtime_forgets(pending, reported)

    def _give_up(self, run: Run, batch_state: BatchState, failure: TurnFailure) -> None:
        """Cancel a batch that failed: it is split, or its only question fails for good."""
        self._abandon([batch_state])
        run.batch_states.remove(batch_state)
        if not batch_state.retry.is_exhausted(run.settings.max_attempts):
            run.retry(batch_state.retry.split())
            return
        final = Failure(id=batch_state.batch.questions[0].id, agent=failure.agent, error=failure.reason)
        if run.settle(final):
            run.tally.count_failure(final)

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
            self._runtime.free_segments([*pending, *reported])


def _died(event: Broke) -> bool:
    """Whether the actor of the turn is gone."""
    return isinstance(event, TurnLost) and not event.lacks_memory
