"""What `latentmas ask` asks: a question as it was typed, or one that a built-in task generates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random, SystemRandom
from typing import TYPE_CHECKING, Any, Literal, get_args

from latentmas_ray.config import EMBEDDED_MODEL, RunConfig
from latentmas_ray.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from latentmas_ray.runs.results import Answer

ExampleTask = Literal["chain", "notes"]
EXAMPLE_TASKS: tuple[ExampleTask, ...] = get_args(ExampleTask)
_NUM_DRAWN = 12  # holds each kind of question of both tasks equally often


@dataclass(frozen=True)
class Asked:
    """One question: the run's configuration for it, its record, and whether a task generated it."""

    config: RunConfig
    record: Mapping[str, Any]
    is_example: bool = False

    @property
    def notes(self) -> Sequence[str]:
        """What each expert reads; none where the question is all that is read."""
        return tuple(self.record.get("notes", ()))


def typed_question(config: RunConfig, text: str | None, *, anyway: bool, has_memory: bool) -> Asked:
    """The question as it was typed, with the prompts that the embedded model knows where that is the model.

    Raises ConfigError for none or an empty one, and, unless `anyway`, for one that the embedded model was not trained
    for. With `has_memory` a question about notes may leave them out: they are in the memory.
    """
    from latentmas_ray.tasks.trained import ABILITIES, trained_task, with_notes

    if text is None:
        raise ConfigError("QUESTION", "nothing", "give the question in quotes, or --example chain")
    if not text.strip():
        raise ConfigError("QUESTION", text, "it must not be empty")
    if config.model != EMBEDDED_MODEL:
        return Asked(config, {"question": text})
    task = trained_task(text, has_memory=has_memory)
    if task is None and not anyway:
        raise ConfigError(
            "QUESTION",
            text,
            f"{ABILITIES} (--example asks one); bring a model with --model, or have it try with --anyway",
        )
    if task is None:
        return Asked(config, {"question": text})
    record = with_notes(text) if trained_task(text) == "notes" else {"question": text}
    return Asked(config.model_copy(update={"task": task}), record)


def example_question(config: RunConfig, task: str, seed: int | None) -> Asked:
    """A generated question of `task` with its gold, the same for the same `seed`; another one each time without.

    Raises ConfigError for a task that generates none.
    """
    from latentmas_ray.tasks.chain import chain_questions
    from latentmas_ray.tasks.notes import notes_questions

    if task not in EXAMPLE_TASKS:
        raise ConfigError("example", task, f"it must be {' or '.join(EXAMPLE_TASKS)}")
    seed = SystemRandom().randrange(10**6) if seed is None else seed
    generate = chain_questions if task == "chain" else notes_questions
    question = Random(seed).choice(generate(_NUM_DRAWN, seed))
    return Asked(config.model_copy(update={"task": task}), question.record, is_example=True)


def print_example(console: "Console", answer: "Answer", notes: Sequence[str]) -> None:
    """The question with what each expert reads, the answer, and the gold."""
    from latentmas_ray.cli.render.run_tables import named_rows
    from latentmas_ray.cli.render.text import printable

    rows = {f"notes of expert {index}": text for index, text in enumerate(notes, start=1)}
    rows |= {"question": answer.question, "answer": printable(answer.answer)}
    rows["gold"] = f"{answer.gold} (the answer is {'right' if answer.correct else 'wrong'})"
    console.print(named_rows(rows))
