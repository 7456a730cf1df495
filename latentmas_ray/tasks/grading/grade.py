"""The entry to grading: dispatches on a question's kind."""

from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from threading import Event

from latentmas_ray.errors import TaskError
from latentmas_ray.sandbox import find_obstacle
from latentmas_ray.tasks.facts.numbers import numbers_from
from latentmas_ray.tasks.grading.choice import choice_letter, extract_choice, options_of
from latentmas_ray.tasks.grading.code import grade_code
from latentmas_ray.tasks.grading.latex import check_latex, grade_latex
from latentmas_ray.tasks.grading.number import extract_number, find_number, number_text, parse_number
from latentmas_ray.tasks.grading.text import extract_text, same_text
from latentmas_ray.tasks.question import AnswerKind, Grade, Question

SLOW_KINDS = frozenset({"code", "math"})  # graded in a process of their own: 0.1 to 30 seconds each

_FORMS: dict[AnswerKind, str] = {
    "number": "Give the final number inside \\boxed{}.",
    "choice": "Give the letter of the correct option inside \\boxed{}.",
    "math": "Give the final answer inside \\boxed{}, in LaTeX.",
    "code": "Give the complete Python code, with its imports, in one last block that begins with ```python.",
    "text": 'Give the final answer on one last line that begins with "Answer:".',
}


def answer_form(kind: AnswerKind) -> str:
    """Return the sentence that tells an agent how to write its final answer."""
    return _FORMS[kind]


def extract(question: Question, answer: str) -> str | None:
    """Return the prediction of an answer of kind number (`1000`, `0.5`, `1/3`), choice (a capital letter) or text; None
    without one."""
    if question.kind == "number":
        return extract_number(answer, question.question)
    if question.kind == "choice":
        return extract_choice(answer, options_of(question), question.question)
    return extract_text(answer, question.question, question.gold)


def grade(question: Question, answer: str, *, cancelled: Event | None = None, unsafe_programs: bool = False) -> Grade:
    """Return the prediction that was read from the answer, and whether it equals the gold (None without a gold).

    Numbers are compared exactly (18.00 = 18, 0.5 = 1/2; 50% = 50); a gold that is not a number is compared as text.
    Choices are compared by letter, texts without case, white space and closing punctuation, LaTeX by value. Code is
    right if it passes the question's tests. Setting `cancelled` ends the grading of LaTeX and code early.
    `unsafe_programs`: code runs also on a machine that cannot confine it.

    Raises SandboxError for code, and TaskError for LaTeX, if this machine cannot grade them (see `check_graders`).
    """
    if question.kind == "code":
        return grade_code(question, answer, cancelled=cancelled, unsafe_programs=unsafe_programs)
    if question.kind == "math":
        return grade_latex(question, answer, cancelled=cancelled)
    if question.kind == "number":
        return replace(_grade_number(question, answer), numbers_from=numbers_from(question, answer))
    prediction = extract(question, answer)
    if question.gold is None:
        return Grade(prediction=prediction, correct=None)
    if question.kind == "choice":
        letter = choice_letter(question.gold, options_of(question))
        return Grade(prediction=prediction, correct=prediction is not None and prediction == letter)
    return Grade(prediction=prediction, correct=same_text(prediction, question.gold))


def grade_unconfined(question: Question, answer: str, *, cancelled: Event | None = None) -> Grade:
    """Return the grade also on a machine that cannot confine code. See `grade`."""
    return grade(question, answer, cancelled=cancelled, unsafe_programs=True)


def check_graders(questions: Iterable[Question], *, unsafe_programs: bool = False) -> None:
    """Check before a run that answers can be graded on this machine. Raises TaskError if code cannot be confined
    (`unsafe_programs`: it need not be), or if math-verify is missing for LaTeX."""
    kinds = {question.kind for question in questions}
    if "code" in kinds and not unsafe_programs and (obstacle := find_obstacle()):
        expected = f"programs cannot be confined here: {obstacle}; --unsafe-programs (unsafe_programs) runs them anyway"
        raise TaskError("task", "code", expected)
    if "math" in kinds:
        check_latex()


def _grade_number(question: Question, answer: str) -> Grade:
    gold = None if question.gold is None else parse_number(question.gold)
    if question.gold is not None and gold is None:
        prediction = extract_text(answer, question.question, question.gold)
        return Grade(prediction=prediction, correct=same_text(prediction, question.gold))
    found = find_number(answer, question.question)
    prediction = number_text(found) if isinstance(found, Fraction) else found
    return Grade(prediction=prediction, correct=None if gold is None else found == gold)
