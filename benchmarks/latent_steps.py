"""What is saved where questions stop thinking when their thoughts have converged, and which answers change.

The same questions with all steps and with each setting of `--latent-steps`, and the same in other batches: sums in
another order are the noise of the full run, and what a step costs depends on the batch. Greedy, in this process, so
that nothing else differs. With a folder a run that was finished is not run again.
"""

import json
import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from rich import box
from rich.table import Table

from latentmas_ray import LatentMAS, load_run
from latentmas_ray.cli.render.run_tables import results_console
from latentmas_ray.errors import ConfigError
from latentmas_ray.models import LanguageModel, load_model
from latentmas_ray.runs.results import Answer
from latentmas_ray.units import format_accuracy, format_number, format_seconds

_SECONDS = "cpu_seconds.txt"  # in the folder of a run that was finished


@dataclass(frozen=True, kw_only=True)
class LatentStepsSettings:
    """What is run."""

    model: str = "tiny"
    task: str = "notes"
    topology: str = "hierarchical"
    steps: int = 40
    settings: tuple[str, ...] = ("auto", "max:40")
    limit: int = 100
    batch_size: int = 8
    other_batch_size: int = 1  # of the same runs once more
    max_new_tokens: int = 64
    dtype: str = "auto"


@dataclass(frozen=True, kw_only=True)
class LatentStepsFigures:
    """One run; seconds are means over its questions."""

    latent_steps: str
    batch_size: int
    steps_per_question: float
    times_fewer: float  # than all steps
    think_seconds: float
    cpu_seconds: float  # of the whole run, per question
    accuracy: float | None
    num_changed: int  # questions whose answer has other tokens than with all steps
    num_questions: int


def measure_latent_steps(settings: LatentStepsSettings, output: Path | None, *, as_json: bool) -> None:
    """Run all settings that are not in `output` yet, and print the figures. Raises InputError and RunError kinds."""
    if settings.batch_size == settings.other_batch_size:
        raise ConfigError("other_batch_size", settings.other_batch_size, "it must differ from the batch size")
    figures: list[LatentStepsFigures] = []
    full: dict[str, Answer] = {}
    with ExitStack() as stack:
        place = output or Path(stack.enter_context(TemporaryDirectory()))
        lm = None
        for batch_size in (settings.batch_size, settings.other_batch_size):
            for steps in (str(settings.steps), *settings.settings):
                folder = place / f"steps-{steps.replace(':', '-')}-batch-{batch_size}"
                if not (folder / _SECONDS).exists():
                    lm = lm or load_model(settings.model, dtype=settings.dtype)
                    _run(settings, steps, batch_size, folder, lm)
                answers = {answer.id: answer for answer in load_run(str(folder)).answers}
                full = full or answers
                seconds = float((folder / _SECONDS).read_text()) / len(answers)
                figures.append(_figures(steps, batch_size, answers, full, seconds))
    if as_json:
        print(json.dumps({"settings": asdict(settings), "runs": [asdict(one) for one in figures]}, indent=2))
    else:
        results_console().print(_table(figures))


def _run(settings: LatentStepsSettings, steps: str, batch_size: int, folder: Path, lm: LanguageModel) -> None:
    """Answer the questions; write the processor time of answering. A run that was interrupted is measured again."""
    shutil.rmtree(folder, ignore_errors=True)
    with LatentMAS(
        lm.model,
        tokenizer=lm.chat.tokenizer,
        task=settings.task,
        runtime="local",
        topology=settings.topology,
        latent_steps=steps,
        batch_size=batch_size,
        max_new_tokens=settings.max_new_tokens,
        temperature=0.0,
    ) as mas:
        mas.evaluate(limit=1, latent_steps=2)  # the warm-up
        begin = time.process_time()
        mas.evaluate(limit=settings.limit, output=str(folder))
        seconds = time.process_time() - begin
    (folder / _SECONDS).write_text(f"{seconds}\n")


def _figures(
    steps: str, batch_size: int, answers: dict[str, Answer], full: dict[str, Answer], cpu_seconds: float
) -> LatentStepsFigures:
    num = len(answers)
    graded = [answer.correct for answer in answers.values() if answer.correct is not None]
    done = sum(answer.latent_tokens for answer in answers.values()) / num
    of_full = sum(answer.latent_tokens for answer in full.values()) / num
    thinking = [
        use.seconds.get("think", 0.0) / (answer.batch_size or 1)
        for answer in answers.values()
        for use in answer.agents.values()
    ]
    return LatentStepsFigures(
        latent_steps=steps,
        batch_size=batch_size,
        steps_per_question=done,
        times_fewer=of_full / done if done else float("inf"),
        think_seconds=sum(thinking) / num,
        cpu_seconds=cpu_seconds,
        accuracy=sum(graded) / len(graded) if graded else None,
        num_changed=sum(answers[name].answer_token_ids != full[name].answer_token_ids for name in full),
        num_questions=num,
    )


def _table(figures: Sequence[LatentStepsFigures]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    titles = (
        "latent\nsteps",
        "batch",
        "steps per\nquestion",
        "times\nfewer",
        "thinking",
        "CPU time",
        "accuracy",
        "answers\nchanged",
    )
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    for one in figures:
        table.add_row(
            one.latent_steps,
            str(one.batch_size),
            format_number(one.steps_per_question),
            f"{one.times_fewer:.1f}",
            format_seconds(one.think_seconds),
            format_seconds(one.cpu_seconds),
            format_accuracy(one.accuracy),
            f"{one.num_changed} of {one.num_questions}",
        )
    return table
