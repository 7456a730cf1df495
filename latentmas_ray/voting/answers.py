"""Which answers to a question are one vote: those that the task's grader holds to be the same."""

from collections.abc import Mapping
from dataclasses import replace

from latentmas_ray.errors import TaskError
from latentmas_ray.tasks.grading.choice import choice_letter, options_of
from latentmas_ray.tasks.grading.grade import grade
from latentmas_ray.tasks.grading.number import number_text, parse_number
from latentmas_ray.tasks.grading.text import same_text
from latentmas_ray.tasks.question import Question


def option_labels(question: Question) -> tuple[str, ...]:
    """Return the letters of a choice; empty for an open question. Raises TaskError for a choice whose options cannot be
    found, and for code: no two programs are one vote."""
    if question.kind == "code":
        expected = "its answers are programs, which tests compare and votes cannot; give runs of another task"
        raise TaskError(f"question {question.id}: kind", "code", expected)
    if question.kind != "choice":
        return ()
    letters = tuple(options_of(question))
    if len(letters) < 2:
        raise TaskError(f"question {question.id}: options", question.question, "it must have at least 2 to vote on")
    return letters


def label_answers(question: Question, predictions: Mapping[str, str | None]) -> dict[str, str | None]:
    """Return the label of each agent's prediction, as the grader read it from the answer; None for none, and for a
    choice that is no option.

    Choices are the same by letter, numbers by value, LaTeX by value as math-verify sees it, texts as graded. The label
    of several is the first of them in the order of texts, so the order of agents decides nothing. Raises TaskError
    where LaTeX cannot be compared, and as `option_labels`.
    """
    letters = option_labels(question)
    if letters:
        return {agent: text if text in letters else None for agent, text in predictions.items()}
    labels: dict[str, str] = {}  # by text
    for text in sorted({text for text in predictions.values() if text}):
        labels[text] = next(
            (one for one in dict.fromkeys(labels.values()) if _is_same(question, text, one)), _named(text)
        )
    return {agent: labels[text] if text else None for agent, text in predictions.items()}


def gold_label(question: Question, labels: Mapping[str, str | None]) -> str | None:
    """Return the label of the right answer: that of `labels` which the grader finds right, else the gold's own; None
    without a gold."""
    if question.gold is None:
        return None
    if question.kind == "choice":
        return choice_letter(question.gold, options_of(question))
    given = sorted({label for label in labels.values() if label is not None})
    return next((label for label in given if _is_same(question, label, question.gold)), _named(question.gold))


def _is_same(question: Question, text: str, other: str) -> bool:
    """Whether the grader finds `text` right where `other` is the gold."""
    if question.kind == "math":
        return grade(replace(question, gold=other), f"\\boxed{{{text}}}").correct is True
    if question.kind == "number" and (value := parse_number(other)) is not None:
        return parse_number(text) == value
    return same_text(text, other)


def _named(text: str) -> str:
    value = parse_number(text)
    return text if value is None else number_text(value)
