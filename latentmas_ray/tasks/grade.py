"""Whether an answer is right."""

from fractions import Fraction

from latentmas_ray.tasks.choices import choice_letter, options_of
from latentmas_ray.tasks.extract import extract, extract_text
from latentmas_ray.tasks.markup import normalise
from latentmas_ray.tasks.numbers import find_number, number_text, parse_number
from latentmas_ray.tasks.question import Grade, Question


def grade(question: Question, answer: str) -> Grade:
    """What was read out of the answer, and whether it equals the gold (None without a gold). Never raises.

    Numbers are compared exactly (18.00 = 18, 0.5 = 1/2; 50% = 50), choices by letter, texts without regard to case,
    white space and closing punctuation. A gold that is no number is compared as text.
    """
    if question.kind == "number":
        return _grade_number(question, answer)
    prediction = extract(question, answer)
    if question.gold is None:
        return Grade(prediction=prediction, correct=None)
    if question.kind == "choice":
        letter = choice_letter(question.gold, options_of(question))
        return Grade(prediction=prediction, correct=prediction is not None and prediction == letter)
    return Grade(prediction=prediction, correct=_same_text(prediction, question.gold))


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
