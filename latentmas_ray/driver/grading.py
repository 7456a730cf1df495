"""Answers on their way to their grades. Code and LaTeX take processes and seconds, for which no turn must wait."""

import os
from collections.abc import Sequence
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
class _Batch(Generic[Key]):
    key: Key
    grades: Sequence[Grade | Future[Grade]]

    @property
    def open(self) -> list[Future[Grade]]:
        return [grade for grade in self.grades if isinstance(grade, Future) and not grade.done()]

    @property
    def has_failed(self) -> bool:
        return any(isinstance(grade, Future) and grade.exception() is not None for grade in self.grades)

    def result(self) -> list[Grade]:
        return [grade.result() if isinstance(grade, Future) else grade for grade in self.grades]


class Grading(Generic[Key]):
    """Grades batches of answers: most at once, slow ones in a few threads that watch over processes."""

    def __init__(self, grade: Grader) -> None:
        self._grade = grade
        self._cancelled = Event()
        self._pool: ThreadPoolExecutor | None = None
        self._batches: list[_Batch[Key]] = []

    def __len__(self) -> int:
        """How many batches have been given and not been taken."""
        return len(self._batches)

    def give(self, key: Key, questions: Sequence[Question], answers: Sequence[str]) -> None:
        """One batch of answers; its grades come out of `take` with its `key`."""
        grades = [self._begin(question, answer) for question, answer in zip(questions, answers, strict=True)]
        self._batches.append(_Batch(key, grades))

    def take(self, timeout_seconds: float = 0.0) -> list[tuple[Key, list[Grade]]]:
        """The batches that are graded, in the order in which they were given; waits for one if there is none yet.

        Raises what the grader raised, for the first batch of which it did; that batch is not given out again.
        """
        if timeout_seconds and self._batches and all(batch.open for batch in self._batches):
            wait([future for batch in self._batches for future in batch.open], timeout_seconds, FIRST_COMPLETED)
        results: list[tuple[Key, list[Grade]]] = []
        for batch in [batch for batch in self._batches if not batch.open]:
            if results and batch.has_failed:
                break  # what came before it is given out first
            self._batches.remove(batch)
            results.append((batch.key, batch.result()))
        return results

    def cancel(self) -> None:
        """End what is under way; nothing more comes of it."""
        self._cancelled.set()
        self._batches.clear()
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
