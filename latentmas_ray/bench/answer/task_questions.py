"""Which questions of a task the methods answer, and with which they warm up."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from latentmas_ray.errors import ConfigError
from latentmas_ray.tasks import load_questions
from latentmas_ray.tasks.question import Question

NUM_WARM_UP = 8  # at most


@dataclass(frozen=True, kw_only=True)
class TaskQuestions:
    """Questions of one task. No question is answered twice on the same actors: vLLM keeps what it computed for a
    prompt, so it would be answered faster the second time, by agents that read long prompts most of all."""

    warm_up: tuple[Question, ...]
    measured: Mapping[int, tuple[Question, ...]]  # by concurrency
    is_repeated: bool  # at every concurrency the same ones: each needs actors of its own


def choose_questions(task: str, *, limit: int, concurrency: Sequence[int]) -> TaskQuestions:
    """Return `limit` questions for each concurrency, and others to warm up with.

    A task that has too few for that gives the same questions to each concurrency, at most `limit`, and keeps up to an
    eighth of its own for the warm-up. Raises TaskError as `load_questions` does, ConfigError for a single question.
    """
    wanted = limit * len(concurrency)
    loaded = load_questions(task, wanted + NUM_WARM_UP)
    if len(loaded) == wanted + NUM_WARM_UP:
        slices = (tuple(loaded[first : first + limit]) for first in range(0, wanted, limit))
        measured = dict(zip(concurrency, slices, strict=True))
        return TaskQuestions(warm_up=tuple(loaded[wanted:]), measured=measured, is_repeated=False)
    if len(loaded) < 2:
        raise ConfigError("tasks", task, "a task must have two questions at least: one to warm up with")
    num_spare = max(1, min(NUM_WARM_UP, len(loaded) // 8))
    measured = dict.fromkeys(concurrency, tuple(loaded[:-num_spare][:limit]))
    return TaskQuestions(warm_up=tuple(loaded[-num_spare:]), measured=measured, is_repeated=len(concurrency) > 1)
