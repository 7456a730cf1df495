"""Kind `math`: a LaTeX expression, compared by value with `math-verify` (extra `eval`) in a process with limits.

Comparing two large expressions may take forever, which must cost one question and not the run.
"""

import re
from importlib.util import find_spec
from pathlib import Path
from threading import Event

from latentmas_ray.errors import TaskError
from latentmas_ray.sandbox import Job, Limits, run_program
from latentmas_ray.tasks.grading.answer_text import last_box_source, normalise, plain
from latentmas_ray.tasks.grading.final_part import final_part
from latentmas_ray.tasks.grading.number import parse_number
from latentmas_ray.tasks.grading.text import extract_text, joined_boxes
from latentmas_ray.tasks.question import Grade, Question

_LIMITS = Limits(wall_seconds=60.0, cpu_seconds=20)
# math-verify's own time limits use signals, which work in the main thread only.
_TESTS = """
from math_verify import parse, verify
gold, given = (parse("$" + text + "$", parsing_timeout=None) for text in {texts!r})
assert gold and given and verify(gold, given, timeout_seconds=None), 'not the value of the gold'
"""
_GROUPING = re.compile(r"[\\^_]")
_SINGLE = re.compile(r"([\^_])\{([0-9A-Za-z])\}")  # x^{2} is x^2


def extract_latex(answer: str, question: str = "", gold: str | None = None) -> str | None:
    """Return the last box with its LaTeX, for a gold of several parts as many boxes, else the final answer as text."""
    text = final_part(answer, question).text
    return ", ".join(joined_boxes(text, gold)) or last_box_source(text) or extract_text(answer, question, gold)


def grade_latex(question: Question, answer: str, *, cancelled: Event | None = None) -> Grade:
    """Grade whether the answer's expression equals the gold in value. Raises TaskError if math-verify is missing."""
    prediction = extract_latex(answer, question.question, question.gold)
    if question.gold is None or prediction is None:
        return Grade(prediction=prediction, correct=None if question.gold is None else False)
    gold = (last_box_source(question.gold) or question.gold).strip().strip("$")
    given = prediction.strip().strip("$")
    if _same(gold, given):
        return Grade(prediction=prediction, correct=True)
    check_latex()
    job = Job(
        program=None,
        tests=_TESTS.format(texts=(gold, given)),
        limits=_LIMITS,
        needs_confinement=False,
        import_paths=_import_paths("math_verify", "latex2sympy2_extended", "sympy", "mpmath", "antlr4"),
    )
    outcome = run_program(job, cancelled=cancelled)
    return Grade(prediction=prediction, correct=outcome.passed, reason=outcome.reason)


def check_latex() -> None:
    """Raise TaskError if math-verify is not installed."""
    if find_spec("math_verify") is None:
        expected = "grading LaTeX needs the extra eval: pip install '.[eval]' in a checkout; or use kind number or text"
        raise TaskError("kind", "math", expected)


def _same(gold: str, given: str) -> bool:
    """Whether they are equal without math-verify: as numbers, as written, or as words."""
    number = parse_number(gold)
    if (number is not None and number == parse_number(given)) or _written(gold) == _written(given):
        return True
    # Without its braces, an expression could be another one: e^{2x} and e^{2}x.
    words = plain(gold), plain(given)
    return normalise(words[0]) == normalise(words[1]) and not any(_GROUPING.search(text) for text in words)


def _written(text: str) -> str:
    return _SINGLE.sub(r"\1\2", " ".join(text.split()))


def _import_paths(*packages: str) -> tuple[str, ...]:
    """Return the folders from which this process imports these packages."""
    specs = [find_spec(package) for package in packages]
    return tuple(dict.fromkeys(str(Path(spec.origin).parents[1]) for spec in specs if spec and spec.origin))
