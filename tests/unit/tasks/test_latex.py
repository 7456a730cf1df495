"""LaTeX compared by value; needs the extra `eval`."""

from importlib.util import find_spec

import pytest

from latentmas_ray.errors import TaskError
from latentmas_ray.sandbox import Job, Outcome, find_obstacle
from latentmas_ray.tasks import Question, answer_form, check_graders, grade, question_from
from latentmas_ray.tasks.grading import latex
from latentmas_ray.tasks.grading.latex import extract_latex

HAS_LIBRARY = find_spec("math_verify") is not None
needs_library = pytest.mark.skipif(
    not HAS_LIBRARY or find_obstacle() is not None, reason="math-verify (extra eval) or the sandbox is not here"
)


def make(gold: str | None) -> Question:
    return Question(id="1", question="?", kind="math", gold=gold, record={})


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("18", r"so \boxed{18.00}"),
        (r"\frac{1}{2}", r"\boxed{0.5}"),
        (r"x^{2}+1", r"\boxed{x^2+1}"),
        (r"\text{no solution}", r"\boxed{No solution}"),
        (r"90^\circ", r"\boxed{90}"),
        (r"\binom{n}{12}", r"\boxed{\binom{n}{12}}"),
        (r"\boxed{\sqrt{2}}", r"It is $\boxed{\sqrt{2}}$."),
    ],
)
def test_equal_texts_need_no_library(gold: str, answer: str) -> None:
    assert grade(make(gold), answer).correct is True


SAME = [
    (r"\sqrt{8}", r"\boxed{2\sqrt{2}}"),
    (r"x^2+1", r"\boxed{1+x^{2}}"),
    (r"\left(3, \frac{\pi}{2}\right)", r"\boxed{(3, \pi/2)}"),
    (r"\{1, 2\}", r"\boxed{\{2, 1\}}"),
]
OTHER = [
    (r"\sqrt{8}", r"\boxed{2\sqrt{3}}"),
    ("x^2+1", r"\boxed{x^2-1}"),
    ("(1, 2)", r"\boxed{(2, 1)}"),
    # These differ in nothing but where the braces stand.
    ("e^{2x}", r"\boxed{e^{2}x}"),
    (r"\sqrt{2x}", r"\boxed{\sqrt{2}x}"),
    (r"\frac{1}{2x}", r"\boxed{\frac{12}{x}}"),
    ("x^{12}", r"\boxed{x^{1}2}"),
    (r"\binom{n}{12}", r"\boxed{\binom{n1}{2}}"),
]


@needs_library
@pytest.mark.parametrize(("gold", "answer", "is_right"), [(*SAME[0], True), (*OTHER[0], False)])
def test_the_value_is_compared_in_a_process_with_limits(gold: str, answer: str, is_right: bool) -> None:
    assert grade(make(gold), answer).correct is is_right


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same program, but in this process: it takes a second to import what compares."""

    def run(job: Job, **_: object) -> Outcome:
        names: dict[str, object] = {}
        try:
            exec(f"{job.program}\n{job.tests}", names)
        except AssertionError as error:
            return Outcome(passed=False, reason=str(error))
        return Outcome(passed=True)

    monkeypatch.setattr(latex, "run_program", run)


@needs_library
@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize(("gold", "answer"), SAME)
def test_the_same_value_is_right(gold: str, answer: str) -> None:
    assert grade(make(gold), answer).correct is True


@needs_library
@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize(("gold", "answer"), OTHER)
def test_another_value_is_wrong(gold: str, answer: str) -> None:
    assert grade(make(gold), answer).correct is False


def test_the_prediction_keeps_its_latex() -> None:
    assert extract_latex(r"<think>\boxed{1}</think> $\boxed{\frac{\sqrt{3}}{2}}$") == r"\frac{\sqrt{3}}{2}"
    assert extract_latex("Answer: x + 1") == "x + 1"
    assert grade(make("1"), "").correct is False
    assert grade(make(None), r"\boxed{1}").correct is None
    assert "LaTeX" in answer_form("math")
    assert question_from({"question": "?", "gold": "1", "kind": "math"}, index=0).kind == "math"


@pytest.mark.skipif(HAS_LIBRARY, reason="math-verify is here")
def test_without_the_library_the_error_names_the_extra() -> None:
    with pytest.raises(TaskError, match="extra eval"):
        check_graders([make("1")])
