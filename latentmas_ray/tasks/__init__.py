"""Questions and their grading. Pure Python.

`load_questions` loads a task or a file, and `questions_from` converts what the Python API is given. `answer_form` is
the sentence that tells an agent how to write its answer, `extract` reads the prediction from the answer, and `grade`
compares it with the gold. `grading/__init__.py` lists the kinds of answers.
"""

from latentmas_ray.tasks.files import BUILTIN_TASKS, load_questions
from latentmas_ray.tasks.grading.grade import (
    SLOW_KINDS,
    answer_form,
    check_graders,
    extract,
    grade,
    grade_unconfined,
)
from latentmas_ray.tasks.hub import Benchmark
from latentmas_ray.tasks.question import AnswerKind, Grade, Question, mismatch_memory
from latentmas_ray.tasks.record import question_from, questions_from
from latentmas_ray.tasks.registry import BENCHMARKS, find_benchmark, task_max_new_tokens

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
    "extract",
    "find_benchmark",
    "grade",
    "grade_unconfined",
    "load_questions",
    "mismatch_memory",
    "question_from",
    "questions_from",
    "task_max_new_tokens",
]
