"""Whether an answer is right."""

from collections.abc import Iterable
from fractions import Fraction
from threading import Event

from latentmas_ray.errors import TaskError
from latentmas_ray.sandbox import find_obstacle
from latentmas_ray.tasks.grading.answer_text import normalise
from latentmas_ray.tasks.grading.choice import choice_letter, options_of
from latentmas_ray.tasks.grading.code import grade_code
from latentmas_ray.tasks.grading.extract import extract, extract_text
from latentmas_ray.tasks.grading.latex import check_latex, grade_latex
from latentmas_ray.tasks.grading.number import find_number, number_text, parse_number
from latentmas_ray.tasks.question import Grade, Question

SLOW_KINDS = frozenset({"code", "math"})  # graded by processes of their own: a tenth of a second to half a minute


def grade(question: Question, answer: str, *, cancelled: Event | None = None) -> Grade:
    """What was read out of the answer, and whether it equals the gold (None without a gold).

    Numbers are compared exactly (18.00 = 18, 0.5 = 1/2; 50% = 50), choices by letter, texts without regard to case,
    white space and closing punctuation. A gold that is no number is compared as text. LaTeX is compared by value, and
    code is right if it passes the question's tests; `cancelled`, once set, ends those two early.

    Raises SandboxError for code, and TaskError for LaTeX, where `check_graders` does.
    """
    if question.kind == "code":
        return grade_code(question, answer, cancelled=cancelled)
    if question.kind == "math":
        return grade_latex(question, answer, cancelled=cancelled)
    if question.kind == "number":
        return _grade_number(question, answer)
    prediction = extract(question, answer)
    if question.gold is None:
        return Grade(prediction=prediction, correct=None)
    if question.kind == "choice":
        letter = choice_letter(question.gold, options_of(question))
        return Grade(prediction=prediction, correct=prediction is not None and prediction == letter)
    return Grade(prediction=prediction, correct=_same_text(prediction, question.gold))


def check_graders(questions: Iterable[Question]) -> None:
    """Raises TaskError, before anything is answered, where these questions' answers cannot be graded here: code that
    nothing can confine, LaTeX without math-verify."""
    kinds = {question.kind for question in questions}
    if "code" in kinds and (obstacle := find_obstacle()):
        raise TaskError("task", "code", f"answers cannot be run here: {obstacle}")
    if "math" in kinds:
        check_latex()


def _grade_number(question: Question, answer: str) -> Grade:
    gold = None if question.gold is None else parse_number(question.gold)
    if question.gold is not None and gold is None:
        prediction = extract_text(answer)
        return Grade(prediction=prediction, correct=_same_text(prediction, question.gold))
    found = find_number(answer)
    prediction = number_text(found) if isinstance(found, Fraction) else found
    return Grade(prediction=prediction, correct=None if gold is None else found == gold)


def _same_text(prediction: str | None, gold: str) -> bool:
    return prediction is not None and normalise(prediction) == normalise(gold)
