"""The control that swaps memories between questions."""

from collections.abc import Sequence
from dataclasses import replace

from latentmas_ray.errors import TaskError
from latentmas_ray.tasks.question import Question


def mismatch_memory(questions: Sequence[Question]) -> list[Question]:
    """Return the questions for the control that gives each one another question's memory: all agents but the answering
    one get the next question (for the last: the first).

    Raises TaskError for fewer than two questions.
    """
    if len(questions) < 2:
        raise TaskError("memory", "deranged", "it needs at least two questions, so that each gets another's memory")
    others = [*questions[1:], questions[0]]
    return [replace(question, seen_by_others=other) for question, other in zip(questions, others, strict=True)]
