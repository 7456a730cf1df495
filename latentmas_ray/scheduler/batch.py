"""Batches of questions. Their boundaries do not depend on how often a run was interrupted."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from latentmas_ray.tasks.question import Question


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Questions that go through the topology together.

    `done` lists questions whose answers are already in the journal. They are computed again, because floating-point
    results depend on the other questions of the batch, but their answers are not returned again. Agents that write
    every question for itself leave them out (`TurnRequest.skipped`).
    """

    number: int  # position in an uninterrupted run; determines the replica
    questions: tuple[Question, ...]
    done: frozenset[str] = frozenset()

    @cached_property
    def question_ids(self) -> tuple[str, ...]:
        """The ids of the questions."""
        return tuple(question.id for question in self.questions)

    @property
    def open_questions(self) -> tuple[Question, ...]:
        """The questions that still need an answer."""
        return tuple(question for question in self.questions if question.id not in self.done)

    def without(self, ids: Collection[str]) -> "Batch":
        """Return the batch without these questions."""
        left = tuple(question for question in self.questions if question.id not in ids)
        return replace(self, questions=left, done=self.done.difference(ids))

    def split(self) -> list["Batch"]:
        """Return one batch for each open question. Their numbers differ, to spread them over an agent's replicas."""
        first = self.number + 1
        return [
            Batch(number=number, questions=(question,)) for number, question in enumerate(self.open_questions, first)
        ]


def plan_batches(questions: Sequence[Question], batch_size: int, done_ids: Collection[str] = ()) -> list[Batch]:
    """Return the batches that still have open questions, in order.

    Boundaries and numbers are those of a run that starts from nothing: finished batches are left out, partly finished
    batches stay whole.
    """
    done = frozenset(done_ids)
    batches = []
    for number, start in enumerate(range(0, len(questions), batch_size)):
        members = tuple(questions[start : start + batch_size])
        batch = Batch(number=number, questions=members, done=done & {question.id for question in members})
        if batch.open_questions:
            batches.append(batch)
    return batches
