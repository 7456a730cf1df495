"""What is saved where questions stop thinking when their thoughts have converged, and which answers change.

The same questions with all steps, with all steps in other batches (sums in another order: the noise of the full run),
and with each setting of `--latent-steps`. Greedy, in this process, so that nothing else differs.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from rich import box
from rich.table import Table

from latentmas_ray import LatentMAS, load_run
from latentmas_ray.cli.render.run_tables import results_console
from latentmas_ray.runs.results import Answer
from latentmas_ray.units import format_accuracy, format_number, format_seconds


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
    other_batch_size: int = 1  # of the second full run
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


def measure_latent_steps(settings: LatentStepsSettings, *, as_json: bool) -> None:
    """Run all settings and print the figures."""
    figures: list[LatentStepsFigures] = []
    full: dict[str, Answer] = {}
    batches = (settings.batch_size, settings.other_batch_size)
    for batch_size, runs in zip(
        batches, ((str(settings.steps), *settings.settings), (str(settings.steps),)), strict=True
    ):
        for steps in runs:
            answers, cpu_seconds = _answers(settings, steps, batch_size)
            full = full or answers
            figures.append(_figures(steps, batch_size, answers, full, cpu_seconds))
    if as_json:
        print(json.dumps({"settings": asdict(settings), "runs": [asdict(one) for one in figures]}, indent=2))
    else:
        results_console().print(_table(figures))


def _answers(settings: LatentStepsSettings, steps: str, batch_size: int) -> tuple[dict[str, Answer], float]:
    """Return the answers by question, and the processor time of answering, per question."""
    with (
        TemporaryDirectory() as folder,
        LatentMAS(
            settings.model,
            runtime="local",
            topology=settings.topology,
            latent_steps=steps,
            batch_size=batch_size,
            max_new_tokens=settings.max_new_tokens,
            temperature=0.0,
            dtype=settings.dtype,  # type: ignore[arg-type]
        ) as mas,
    ):
        mas.evaluate(settings.task, limit=1, latent_steps=2)  # the warm-up
        begin = time.process_time()
        mas.evaluate(settings.task, limit=settings.limit, output=str(Path(folder) / "run"))
        seconds = time.process_time() - begin
        answers = {answer.id: answer for answer in load_run(str(Path(folder) / "run")).answers}
    return answers, seconds / len(answers)


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
