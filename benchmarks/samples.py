"""`python -m benchmarks samples`: one run with k samples against k runs of one, on the same questions."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from latentmas_ray import Answer, LatentMAS
from latentmas_ray.runs.environment import describe_processor
from latentmas_ray.seeds import sample_seed
from latentmas_ray.tasks import load_questions
from latentmas_ray.units import format_bytes, format_seconds


@dataclass(frozen=True, kw_only=True)
class SamplesSettings:
    """What is asked, and how often."""

    model: str
    task: str
    topology: str
    method: str
    samples: int
    limit: int
    batch_size: int
    latent_steps: int
    max_new_tokens: int
    dtype: str
    temperature: float
    repeats: int
    seed: int = 42


@dataclass(frozen=True, kw_only=True)
class SamplesFigures:
    """Medians over the rounds; CPU seconds of the process, without loading."""

    one_run: float  # with all samples
    single_runs: float  # all of them together
    ratio: float
    moved_bytes: int  # of the run with all samples
    moved_bytes_of_one: int  # of a run with one
    output_tokens: int
    same_answers: int  # of `texts`
    texts: int


def measure_samples(settings: SamplesSettings, *, as_json: bool) -> None:
    """Measure, `repeats` times in turn, and print the figures."""
    rounds = [_round(settings) for _ in range(settings.repeats)]
    first = rounds[0]
    found = SamplesFigures(
        one_run=median(one.one_run for one in rounds),
        single_runs=median(one.single_runs for one in rounds),
        ratio=median(one.ratio for one in rounds),
        moved_bytes=first.moved_bytes,
        moved_bytes_of_one=first.moved_bytes_of_one,
        output_tokens=first.output_tokens,
        same_answers=first.same_answers,
        texts=first.texts,
    )
    if as_json:
        print(json.dumps({"settings": asdict(settings), "figures": asdict(found)}, indent=2))
        return
    table = Table(title=f"{describe_processor()}; {settings}", title_justify="left")
    for title in ("one run", f"{settings.samples} runs", "ratio", "moved", "moved by one", "same answers"):
        table.add_column(title, justify="right")
    table.add_row(
        format_seconds(found.one_run),
        format_seconds(found.single_runs),
        f"{found.ratio:.3f}",
        format_bytes(found.moved_bytes),
        format_bytes(found.moved_bytes_of_one),
        f"{found.same_answers} of {found.texts}",
    )
    Console().print(table)


def _round(settings: SamplesSettings) -> SamplesFigures:
    """Measure once. Each run has its own model; a question before it is not measured."""
    together, seconds = _answers(settings, samples=settings.samples, seed=settings.seed)
    single, moved, num_same, num_texts = 0.0, 0, 0, 0
    for sample in range(settings.samples):
        answers, taken = _answers(settings, samples=1, seed=sample_seed(settings.seed, sample))
        single += taken
        moved = _moved(answers)
        for name, answer in answers.items():
            num_texts += 1
            num_same += together[name].votes[sample].answer_token_ids == answer.answer_token_ids
    return SamplesFigures(
        one_run=seconds,
        single_runs=single,
        ratio=seconds / single,
        moved_bytes=_moved(together),
        moved_bytes_of_one=moved,
        output_tokens=sum(answer.output_tokens for answer in together.values()),
        same_answers=num_same,
        texts=num_texts,
    )


def _answers(settings: SamplesSettings, *, samples: int, seed: int) -> tuple[dict[str, Answer], float]:
    shared: dict[str, Any] = {
        **{name: getattr(settings, name) for name in ("model", "task", "topology", "method", "batch_size", "dtype")},
        **{name: getattr(settings, name) for name in ("latent_steps", "max_new_tokens", "temperature")},
        "runtime": "local",
        "threads": 1,
    }
    questions = load_questions(settings.task, settings.limit)
    with LatentMAS(shared.pop("model"), **shared, samples=samples, seed=seed) as mas:
        list(mas.map(questions[:1]))
        return _timed(lambda: {answer.id: answer for answer in mas.map(questions)})


def _timed(compute: Callable[[], dict[str, Answer]]) -> tuple[dict[str, Answer], float]:
    begin = time.process_time()
    answers = compute()
    return answers, time.process_time() - begin


def _moved(answers: dict[str, Answer]) -> int:
    """Bytes that were handed over, by the accounts of the answers."""
    return sum(transfer.num_bytes for answer in answers.values() for transfer in answer.transfers)
