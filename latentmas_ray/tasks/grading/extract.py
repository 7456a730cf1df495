"""What an answer says: the number, the letter or the text that is compared with the gold."""

import re

from latentmas_ray.tasks.grading.answer_text import last_box, strip_thinking
from latentmas_ray.tasks.grading.choice import extract_choice, options_of
from latentmas_ray.tasks.grading.number import extract_number
from latentmas_ray.tasks.question import AnswerKind, Question

_TEXT_MARKER = re.compile(r"####|\banswer(?: is)?[ \t]{0,9}[*_]{0,3}[:：]", re.IGNORECASE)
_EDGES = " \t\r\n*_`"

_FORMS: dict[AnswerKind, str] = {
    "number": "Give the final number inside \\boxed{}.",
    "choice": "Give the letter of the correct option inside \\boxed{}.",
    "math": "Give the final answer inside \\boxed{}, in LaTeX.",
    "code": "Give the complete Python code, with its imports, in one last block that begins with ```python.",
    "text": 'Give the final answer on one last line that begins with "Answer:".',
}


def answer_form(kind: AnswerKind) -> str:
    """One sentence that tells an agent how to give its final answer."""
    return _FORMS[kind]


def extract(question: Question, answer: str) -> str | None:
    """The prediction in a number's, choice's or text's answer, in one form: `1000`, `0.5`, `1/3`; a capital letter; or
    text. None without one."""
    if question.kind == "number":
        return extract_number(answer)
    if question.kind == "choice":
        return extract_choice(answer, options_of(question))
    return extract_text(answer)


def extract_text(answer: str) -> str | None:
    """The last box; else what follows the last "Answer:" or "####"; else all of it. None for an empty answer."""
    answer = strip_thinking(answer)
    if box := last_box(answer):
        return box
    for marker in reversed(list(_TEXT_MARKER.finditer(answer))):
        end = answer.find("\n", marker.end())
        line = answer[marker.end() : end if end >= 0 else len(answer)].strip(_EDGES)
        if not line and end >= 0:  # the answer stands on the line below
            below = answer[end : end + 2000].lstrip(_EDGES)
            line = below.partition("\n")[0].strip(_EDGES)
        if line:
            return line
    return answer or None
