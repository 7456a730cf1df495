"""Questions and their grading. Pure Python.

`load_questions` loads a task or a file, and `questions_from` converts what the Python API is given. `answer_form` is
the sentence that tells an agent how to write its answer, `extract` reads the prediction from the answer, and `grade`
compares it with the gold. `grading/__init__.py` lists the kinds of answers.

What reads records is imported when it is first used: actors only need prompts and grades.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from latentmas_ray.tasks.grading import grade as _grade_module
from latentmas_ray.tasks.grading.grade import (
    SLOW_KINDS,
    answer_form,
    check_graders,
    extract,
    grade,
    grade_unconfined,
)
from latentmas_ray.tasks.question import AnswerKind, Grade, Question

if TYPE_CHECKING:
    from latentmas_ray.tasks.controls.mismatch import mismatch_memory
    from latentmas_ray.tasks.controls.wrong_version import wrong_version
    from latentmas_ray.tasks.files import BUILTIN_TASKS, check_task, load_questions
    from latentmas_ray.tasks.given import question_from, questions_from
    from latentmas_ray.tasks.hub import Benchmark
    from latentmas_ray.tasks.registry import BENCHMARKS, find_benchmark, task_max_new_tokens

_MODULES = {
    "BENCHMARKS": "registry",
    "BUILTIN_TASKS": "files",
    "Benchmark": "hub",
    "check_task": "files",
    "find_benchmark": "registry",
    "load_questions": "files",
    "mismatch_memory": "controls.mismatch",
    "question_from": "given",
    "questions_from": "given",
    "task_max_new_tokens": "registry",
    "wrong_version": "controls.wrong_version",
}

__all__ = [
    "BENCHMARKS",
    "BUILTIN_TASKS",
    "SLOW_KINDS",
    "AnswerKind",
    "Benchmark",
    "Grade",
    "Question",
    "answer_form",
    "check_graders",
    "check_task",
    "extract",
    "find_benchmark",
    "grade",
    "grade_unconfined",
    "load_questions",
    "mismatch_memory",
    "question_from",
    "questions_from",
    "task_max_new_tokens",
    "wrong_version",
]

# The old name of the module, for one version. `renamed_modules` cannot have it: what is imported under that name
# would replace the function `grade` of this package.
sys.modules[f"{__name__}.grade"] = _grade_module


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
