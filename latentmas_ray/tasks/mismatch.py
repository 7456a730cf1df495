"""Another question's memory for every question: the control that shows whether memory carries anything."""

from collections.abc import Sequence
from dataclasses import replace

from latentmas_ray.errors import TaskError
from latentmas_ray.tasks.question import Question


def mismatch_memory(questions: Sequence[Question]) -> list[Question]:
    """The same questions, of each of which all agents but the answering one see the next (the last one's: the first).

    Raises TaskError for fewer than two questions, of which none could stand in for another.
    """
    if len(questions) < 2:
        raise TaskError("memory", "deranged", "it needs at least two questions, each of which gets another's memory")
    others = [*questions[1:], questions[0]]
    return [replace(question, seen_by_others=other) for question, other in zip(questions, others, strict=True)]
