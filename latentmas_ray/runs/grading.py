"""Grading in the background: code and LaTeX need processes and seconds, and no turn may wait for them.

A question may have several answers. Then it is also told which of them are the same, as its grader sees it.
"""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from threading import Event
from typing import Generic, Protocol, TypeVar

from latentmas_ray.tasks import SLOW_KINDS, Grade, Question
from latentmas_ray.voting.answers import label_answers

Key = TypeVar("Key")

_MAX_WORKERS = 8


class Grader(Protocol):
    """The interface of `tasks.grade`."""

    def __call__(self, question: Question, answer: str, *, cancelled: Event | None = None) -> Grade: ...


@dataclass(frozen=True)
class GradedAnswers:
    """The grades of all answers to one question, in order. If they vote, `labels` says what each counts for: equal
    labels are equal answers, None is no vote."""

    grades: tuple[Grade, ...]
    labels: tuple[str | None, ...] = ()


@dataclass(frozen=True)
class _GradedBatch(Generic[Key]):
    key: Key
    grades: Mapping[str, GradedAnswers | Future[GradedAnswers]]  # by question id

    @property
    def open(self) -> list[Future[GradedAnswers]]:
        return [grade for grade in self.grades.values() if isinstance(grade, Future) and not grade.done()]

    @property
    def error(self) -> BaseException | None:
        """The first error of the grader, or None."""
        errors = [grade.exception() for grade in self.grades.values() if isinstance(grade, Future)]
        return next((error for error in errors if error is not None), None)

    def finished_grades(self) -> dict[str, GradedAnswers]:
        return {
            name: grade.result() if isinstance(grade, Future) else grade
            for name, grade in self.grades.items()
            if not isinstance(grade, Future) or grade.exception() is None
        }


class Grading(Generic[Key]):
    """Grades batches of answers: most kinds synchronously, slow kinds in threads that supervise processes."""

    def __init__(self, grade: Grader, *, votes: bool = False) -> None:
        """`votes`: the answers to one question vote, so that their grades have labels."""
        self._grade, self._votes = grade, votes
        self._cancelled = Event()
        self._pool: ThreadPoolExecutor | None = None
        self._batches: list[_GradedBatch[Key]] = []
        self._error: BaseException | None = None  # of a collected batch, not raised yet

    def __len__(self) -> int:
        """Return how many batches and errors have not been collected."""
        return len(self._batches) + (self._error is not None)

    def submit(self, key: Key, answers: Sequence[tuple[Question, Sequence[str]]]) -> None:
        """Grade the answers of one batch, one or several for each question; `collect` returns its grades with `key`."""
        self._batches.append(
            _GradedBatch(key, {question.id: self._submit_one(question, texts) for question, texts in answers})
        )

    def collect(self, timeout_seconds: float = 0.0) -> list[tuple[Key, dict[str, GradedAnswers]]]:
        """Return key and grades (by question id) of finished batches, in the order of submission. Waits up to
        `timeout_seconds` if no batch is finished.

        A grade whose grader raised is missing from its batch, and the next call raises that error.
        """
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        if timeout_seconds and self._batches and all(batch.open for batch in self._batches):
            wait([future for batch in self._batches for future in batch.open], timeout_seconds, FIRST_COMPLETED)
        finished = [batch for batch in self._batches if not batch.open]
        for batch in finished:
            self._batches.remove(batch)
            self._error = self._error or batch.error
        return [(batch.key, batch.finished_grades()) for batch in finished]

    def cancel(self) -> None:
        """Cancel all grading; nothing more is returned."""
        self._cancelled.set()
        self._batches.clear()
        self._error = None
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _submit_one(self, question: Question, texts: Sequence[str]) -> GradedAnswers | Future[GradedAnswers]:
        if question.kind not in SLOW_KINDS:
            return self._grade_all(question, texts)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(num_workers(), thread_name_prefix="grading")
        return self._pool.submit(self._grade_all, question, texts, self._cancelled)

    def _grade_all(self, question: Question, texts: Sequence[str], cancelled: Event | None = None) -> GradedAnswers:
        how = {} if cancelled is None else {"cancelled": cancelled}
        by_text = {text: self._grade(question, text, **how) for text in dict.fromkeys(texts)}
        grades = tuple(by_text[text] for text in texts)
        if not self._votes:
            return GradedAnswers(grades)
        labels = label_answers(question, {str(place): grade.prediction for place, grade in enumerate(grades)})
        return GradedAnswers(grades, tuple(labels[str(place)] for place in range(len(grades))))


def num_workers() -> int:
    """Return how many slow answers are graded at once: half of the cores, at least 1; agents need the other half."""
    return max(1, min(_MAX_WORKERS, len(os.sched_getaffinity(0)) // 2))
