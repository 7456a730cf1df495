"""Questions are worked on in batches whose boundaries are the same however often a run is interrupted."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from latentmas_ray.tasks.question import Question


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Questions that go through the topology together. `done` are those whose answers are already in the journal:
    they are computed once more, because floating point results depend on the neighbours, but not given out again."""

    number: int  # its place in an undisturbed run; replicas take turns by it
    questions: tuple[Question, ...]
    done: frozenset[str] = frozenset()

    @property
    def open_questions(self) -> tuple[Question, ...]:
        """Those that still need an answer."""
        return tuple(question for question in self.questions if question.id not in self.done)

    def split(self) -> list["Batch"]:
        """One batch for each open question; their numbers differ, so that they spread over the replicas of an agent."""
        first = self.number + 1
        return [
            Batch(number=number, questions=(question,)) for number, question in enumerate(self.open_questions, first)
        ]


def plan_batches(questions: Sequence[Question], batch_size: int, done_ids: Collection[str] = ()) -> list[Batch]:
    """The batches that are left to do, in order.

    Boundaries and numbers are those of a run with nothing done. A batch that is finished is left out; one that is
    half finished is kept whole.
    """
    done = frozenset(done_ids)
    batches = []
    for number, start in enumerate(range(0, len(questions), batch_size)):
        members = tuple(questions[start : start + batch_size])
        batch = Batch(number=number, questions=members, done=done & {question.id for question in members})
        if batch.open_questions:
            batches.append(batch)
    return batches
