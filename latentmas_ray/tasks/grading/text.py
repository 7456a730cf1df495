"""Kind `text`: the final line of an answer, compared without case, white space and closing punctuation."""

import re

from latentmas_ray.tasks.grading.answer_text import last_box, normalise, strip_thinking

_MARKER = re.compile(r"####|\banswer(?: is)?[ \t]{0,9}[*_]{0,3}[:：]", re.IGNORECASE)
_EDGES = " \t\r\n*_`"


def extract_text(answer: str) -> str | None:
    """Return the last box, else the line after the last "Answer:" or "####", else the whole answer; None if empty."""
    answer = strip_thinking(answer)
    if box := last_box(answer):
        return box
    for marker in reversed(list(_MARKER.finditer(answer))):
        end = answer.find("\n", marker.end())
        line = answer[marker.end() : end if end >= 0 else len(answer)].strip(_EDGES)
        if not line and end >= 0:  # the answer is on the next line
            below = answer[end : end + 2000].lstrip(_EDGES)
            line = below.partition("\n")[0].strip(_EDGES)
        if line:
            return line
    return answer or None


def same_text(prediction: str | None, gold: str) -> bool:
    """Whether a prediction equals the gold, normalised."""
    return prediction is not None and normalise(prediction) == normalise(gold)
