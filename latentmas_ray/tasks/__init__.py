"""Questions: where they come from, what an answer to them says, and whether it is right. Pure Python.

`load_questions` reads a file, `questions_from` takes what the Python API is given; `answer_form` tells an agent how to
answer, `extract` reads the answer out of what it wrote, and `grade` compares that with the gold.
"""

from latentmas_ray.tasks.files import BUILTIN_TASKS, load_questions
from latentmas_ray.tasks.grading.extract import answer_form, extract
from latentmas_ray.tasks.grading.grade import SLOW_KINDS, check_graders, grade
from latentmas_ray.tasks.mismatch import mismatch_memory
from latentmas_ray.tasks.question import AnswerKind, Grade, Question
from latentmas_ray.tasks.record import question_from, questions_from
from latentmas_ray.tasks.registry import BENCHMARKS, Benchmark, find_benchmark, task_max_new_tokens

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
    "load_questions",
    "mismatch_memory",
    "question_from",
    "questions_from",
    "task_max_new_tokens",
]
