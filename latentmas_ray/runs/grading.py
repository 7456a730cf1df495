"""Answers on their way to their grades. Code and LaTeX take processes and seconds, for which no turn must wait."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from threading import Event
from typing import Generic, Protocol, TypeVar

from latentmas_ray.tasks import SLOW_KINDS, Grade, Question

Key = TypeVar("Key")

_MAX_WORKERS = 8


class Grader(Protocol):
    """`tasks.grade`, or something that stands in for it."""

    def __call__(self, question: Question, answer: str, *, cancelled: Event | None = None) -> Grade: ...


@dataclass(frozen=True)
class _GradedBatch(Generic[Key]):
    key: Key
    grades: Mapping[str, Grade | Future[Grade]]  # by question id

    @property
    def open(self) -> list[Future[Grade]]:
        return [grade for grade in self.grades.values() if isinstance(grade, Future) and not grade.done()]

    @property
    def error(self) -> BaseException | None:
        """What the first grade that could not be made failed with."""
        errors = [grade.exception() for grade in self.grades.values() if isinstance(grade, Future)]
        return next((error for error in errors if error is not None), None)

    def made(self) -> dict[str, Grade]:
        return {
            name: grade.result() if isinstance(grade, Future) else grade
            for name, grade in self.grades.items()
            if not isinstance(grade, Future) or grade.exception() is None
        }


class Grading(Generic[Key]):
    """Grades batches of answers: most at once, slow ones in a few threads that watch over processes."""

    def __init__(self, grade: Grader) -> None:
        self._grade = grade
        self._cancelled = Event()
        self._pool: ThreadPoolExecutor | None = None
        self._batches: list[_GradedBatch[Key]] = []
        self._error: BaseException | None = None  # of a batch that has been taken, not yet raised

    def __len__(self) -> int:
        """How many batches and errors have not been taken."""
        return len(self._batches) + (self._error is not None)

    def submit(self, key: Key, answers: Sequence[tuple[Question, str]]) -> None:
        """The answers of one batch; their grades come out of `collect` with its `key`."""
        self._batches.append(_GradedBatch(key, {question.id: self._begin(question, text) for question, text in answers}))

    def collect(self, timeout_seconds: float = 0.0) -> list[tuple[Key, dict[str, Grade]]]:
        """The grades, by question id, of batches that are through, in the order in which these were given; waits for
        one if there is none yet.

        A grade that could not be made is missing from its batch, and the next call raises what the grader raised.
        """
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        if timeout_seconds and self._batches and all(batch.open for batch in self._batches):
            wait([future for batch in self._batches for future in batch.open], timeout_seconds, FIRST_COMPLETED)
        through = [batch for batch in self._batches if not batch.open]
        for batch in through:
            self._batches.remove(batch)
            self._error = self._error or batch.error
        return [(batch.key, batch.made()) for batch in through]

    def cancel(self) -> None:
        """End what is under way; nothing more comes of it."""
        self._cancelled.set()
        self._batches.clear()
        self._error = None
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _begin(self, question: Question, answer: str) -> Grade | Future[Grade]:
        if question.kind not in SLOW_KINDS:
            return self._grade(question, answer)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(num_workers(), thread_name_prefix="grading")
        return self._pool.submit(self._grade, question, answer, cancelled=self._cancelled)


def num_workers() -> int:
    """How many slow answers are graded at once: the other half of the cores is for whoever answers."""
    return max(1, min(_MAX_WORKERS, len(os.sched_getaffinity(0)) // 2))
