"""Counts what a run has done, and sends its events to its listeners."""

from collections.abc import Callable

from latentmas_ray.engine.turn import TurnResult
from latentmas_ray.runs.results import Answer, Failure
from latentmas_ray.runs.run_events import (
    MemoryFinished,
    Observer,
    QuestionAnswered,
    QuestionFailed,
    RunEnded,
    RunEvent,
    RunProgress,
    RunStarted,
    TurnFinished,
    TurnRepeated,
)
from latentmas_ray.scheduler.metrics import RunMetrics


class RunCounters:
    """The counters of one run, and the one place where its events begin."""

    def __init__(
        self,
        observer: Observer | None,
        metrics: RunMetrics,
        clock: Callable[[], float],
        num_questions: int,
        num_done: int,
        *,
        on_error: Callable[[Exception], None],
    ) -> None:
        """`on_error` gets what the observer raises: the scheduler serves other callers too, and goes on."""
        self.num_questions = num_questions
        self._observer = observer
        self._metrics = metrics
        self._clock = clock
        self._on_error = on_error
        self._num_done = num_done
        self._num_failed = 0
        self._tokens = 0
        self._started_at = clock()

    def count_turn(self, report: TurnResult) -> None:
        """A turn has processed its prompt, latent and output tokens."""
        self._tokens += sum(report.prompt_tokens) + report.latent_steps * len(report.prompt_tokens)
        self._tokens += sum(len(ids) for ids in report.output_token_ids)
        self._send(TurnFinished(report=report))

    def count_answer(self, answer: Answer) -> None:
        """A question has its answer."""
        self._num_done += 1
        self._send(QuestionAnswered(answer=answer))

    def count_failure(self, failure: Failure) -> None:
        """A question is given up."""
        self._num_failed += 1
        self._send(QuestionFailed(failure=failure))

    def count_fault(self, agent: str, reason: str) -> None:
        """A turn of `agent` was lost, and is carried out again."""
        self._send(TurnRepeated(agent=agent, reason=reason))

    def count_memory(self, question_id: str) -> None:
        """A question's memory is there."""
        self._num_done += 1
        self._send(MemoryFinished(question_id=question_id))

    def report(self, *, batches_in_flight: int, memory_bytes: int) -> None:
        """Send a snapshot; `memory_bytes` are those in flight, of all runs."""
        self._send(
            RunProgress(
                num_questions=self.num_questions,
                num_done=self._num_done,
                num_failed=self._num_failed,
                batches_in_flight=batches_in_flight,
                memory_in_flight_bytes=memory_bytes,
                tokens=self._tokens,
                seconds=self._clock() - self._started_at,
            )
        )

    def start(self, description: str) -> None:
        """The run begins on a runtime of this description."""
        self._send(RunStarted(description=description, num_questions=self.num_questions, num_done=self._num_done))

    def end(self) -> None:
        """Nothing of the run is under way any more, whatever ended it."""
        self._send(RunEnded())

    def _send(self, event: RunEvent) -> None:
        self._metrics.on_event(event)
        if self._observer is None:
            return
        try:
            self._observer.on_event(event)
        except Exception as error:  # noqa: BLE001  whatever it is, it is the observer's
            self._on_error(error)
